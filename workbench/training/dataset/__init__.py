"""Data files and hub data sets turned into tokenised rows that are cached on disk.

`prepared.prepare_data` is the entry point: it finds the sources (`files`, `mixture`), reads and
checks each row (`row_parser`, `rows`), renders it with the model's chat template (`chat`), counts
what happens to the rows (`row_stats`, `data_warnings`) and writes arrow files (`arrow_writer`,
`packing`). The preparation process and each attempt call it. Imports `workbench.recipe`,
`footprint.row_lengths`, `machine`, `text` and `errors`, and no other package of training.
"""
