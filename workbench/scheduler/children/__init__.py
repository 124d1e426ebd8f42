"""Child processes of the engine's loop: preparation, pruning of checkpoints, notification.

Each class starts its children and is polled by a tick; none ever waits. The scheduler's steps
call them through the TickContext. They may import `workbench.home` and `workbench.text`; what
the children run (`workbench.training`) is started by module name and never imported.
"""
