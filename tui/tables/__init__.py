"""Snapshots as rows, columns and lines: what each list and section of the screen shows.

Pure functions of plain data, called by `tui.screens` for every repaint, and tested without an app.
They may import `tui.paint`, `tui.present`, the row and column types of `tui.widgets.rowlist`, and
`workbench.formatting`; nothing else of Textual.
"""
