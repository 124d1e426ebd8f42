"""A scripted engine for looking around: `workbench --demo-tui` opens the screen over it.

The real scheduler runs in a process of its own, on made-up cards and with workers that train
nothing (`worker`), in a temporary home. `play` fills that home and goes on until it is ended, by
`python -m workbench.showcase FOLDER`. Started by the command line by that name; imports the
scheduler, the fleet and the store, and neither ray nor torch.
"""
