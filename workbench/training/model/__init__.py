"""The model under training: its source, tokenizer, frozen base, adapter, warm start and merge.

`source` and `tokenizer` are called by the preparation, `base`, `adapter` and `warm_start` by each
attempt, and `merge` runs as a child of `workbench merge`. Imports `workbench.recipe`, `machine` and
`user_config`, and of training only `control` and `libraries`.
"""
