"""The command line: every command asks `workbench.service`, none imports torch, ray or textual."""

from workbench.cli.app import main

__all__ = ["main"]
