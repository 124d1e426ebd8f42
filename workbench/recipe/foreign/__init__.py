"""Recipes of other trainers: a YAML of TRL, Axolotl or LLaMA-Factory becomes one of ours.

`translation` and `data_sets` hold what all three share, `trl`, `axolotl` and `llama_factory` the
tables of their keys. `recognise` names the trainer of a file, also for the reader of recipes, and
`importer` puts the recipe together. The command line calls `importer.import_recipe`. Imports the
rest of `workbench.recipe`; nothing of a file is executed.
"""
