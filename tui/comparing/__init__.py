"""Compared trials: which ones, their page, the score against each setting, and files of the Board.

`choosing` says which trials of a board are compared, `page` is the screen of a comparison,
`scatter` draws scores against settings, `files` writes a board, and `opening` is the part of the
app that answers what the Board asks for. Called by the Board and by the app. May import
`tui.screens.view`, `tui.tables`, `tui.curves`, `workbench.report` and plain data of
`workbench.service`.
"""
