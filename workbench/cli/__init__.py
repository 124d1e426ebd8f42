"""The command line: `workbench COMMAND …`.

`app` registers the commands of the packages `recipes`, `trials` and `machine`; `tables` prints,
`errors` reports, `child` runs slow work in a child process. Commands know `workbench.service` and
plain data; none imports torch, ray or textual, so that every command starts at once.
"""

from workbench.cli.app import main

__all__ = ["main"]
