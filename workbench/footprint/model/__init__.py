"""Describes a model by the numbers in its `config.json`.

`config` finds that file in a folder or in the hub's cache, `known_models` supplies the numbers of
well-known models by name, `config_values` checks them, and `shape` turns them into a `ModelShape`
with layer sizes and parameter counts. The rest of `footprint`, `training.step` and the commands use
it. It imports errors, text and the recipe's schema; it never reads weights and never asks the
network.
"""
