"""Variants of the screen that the command line opens: one that only reads, and one in ASCII.

`readonly` has the Service of `--readonly`, `ascii` the driver of `--ascii`. Called by `tui.app` and
`tui.screens.view`; they may import `workbench.service`, the key table and `tui.terminal`.
"""
