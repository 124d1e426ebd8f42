"""The board with its verdict: ranked rows from the store joined with what may be claimed of them.

`judged_rows` assembles it; the service and the notification command call it. `board_words` turns it
into short text for the command line and the screen. Imports the store, the verdict (which needs
numpy, so only when a board is judged) and the formats; never the engine.
"""
