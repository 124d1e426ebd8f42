"""A scripted engine for looking around: `workbench --demo-tui` opens the screen over it.

The real scheduler runs in a process of its own, on made-up cards and with workers that train
nothing (`worker`), in a temporary home. `python -m workbench.showcase FOLDER` fills that home, goes
on (`play`) until the screen is gone, and removes it. Started by the command line by that name;
imports the scheduler, the fleet and the store, and neither ray nor torch.
"""
