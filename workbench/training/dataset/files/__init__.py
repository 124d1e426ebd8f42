"""Readers of local data files and hub data sets; each row knows the file and line it came from.

`sources` finds and fingerprints what the recipe names, `rows` reads csv and txt, `json_rows` JSON,
`parquet_rows` parquet; `lines` holds the row type and the bounds on size. Called by the rest of
`workbench.training.dataset`; imports pyarrow and `datasets` only when a file needs them.
"""
