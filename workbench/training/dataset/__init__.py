"""Data files and hub data sets turned into tokenised rows that are cached on disk.

`prepared.prepare_data` is the entry point: it finds the sources (`files`), reads and checks each
row (`row_parser`, `shapes`, `fields`), renders it with the model's chat template (`rendering`,
`chat_template`, `chat_turns`; `turn_ends` decides where turns begin and end), counts what happens
to the rows (`row_stats`, `data_warnings`) and writes arrow files (`arrow_writer`). The preparation
process and each attempt call it. Imports `workbench.recipe`, `machine`, `text` and `errors`, and no
other package of training.
"""
