"""The board with its verdict: ranked rows from the store joined with what may be claimed of them.

`judged_rows` assembles it; the service and the notification command call it. `comparison` sets
trials side by side, `held_out_power` and `capacity` say before a run what rows can show and an
adapter can hold. `board_words` turns claims into short text for the command line and the screen.
Imports the store, the footprint, the verdict (which needs numpy, so only when it is asked) and the
formats; never the engine.
"""
