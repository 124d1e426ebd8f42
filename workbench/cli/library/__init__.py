"""Commands on the adapters of a home and on its disk: adapters, tag, note, archive, rm, trash, du,
prune.

`workbench.cli.app` registers them. They call the service and `workbench.library`, which change
files of the home and need no engine; they import no trainer.
"""
