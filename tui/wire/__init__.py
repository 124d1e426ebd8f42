"""The way from Textual's compositor to the terminal: only cells that differ are sent.

`pens` turns styles into colour codes and the shortest change between two, `cells` turns strips
into rows of cells, `encode` writes the difference of two rows, `frames` keeps what the terminal
shows and decides what is sent next, `output` writes bytes without ever blocking the app, `display`
joins all of it to Textual. The app and its driver in `tui.terminal` call it. It imports textual
and rich, and nothing else of `tui`.
"""
