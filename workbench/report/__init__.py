"""Files of an experiment for other people: one HTML report, and its board as CSV or Markdown.

`facts` gathers an experiment's rows, curves and samples from the service, `plots` draws them as
SVG, `page` makes the document that a browser opens without a network, `saving` writes the file, and
`board_files` makes CSV and Markdown. Called by `workbench report` and `board`, the screen's Board
and the public API. Imports the service, `judging`'s words, `formatting`, `text` and
`machine.files`; `page`, `plots` and `board_files` are pure.
"""
