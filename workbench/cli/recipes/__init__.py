"""Commands that take a recipe: check, plan, run, train, demo, and the recipes that ship.

Each module is one command of `workbench`; `cli.app` registers them. They ask `workbench.service`,
`workbench.recipe` and `workbench.footprint`, and start slow work (preparing data, training) as a
child process. None imports torch, ray or textual.
"""
