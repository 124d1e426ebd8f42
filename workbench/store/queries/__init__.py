"""Questions of one topic each, as functions that take a Reader: mostly the scheduler's.

`attempt_history` reads past attempts, `history` past trials for searches and early stopping,
`fair_share` decides the queue's order between experiments, `sweep_progress` tells how far a sweep
is. Called by `workbench.scheduler` and `workbench.service`; imports the store's reader, its rows
and, for writes, its writer.
"""
