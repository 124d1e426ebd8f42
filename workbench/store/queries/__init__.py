"""Questions of one topic each, as functions that take a Reader: mostly the scheduler's.

`attempt_history` reads past attempts, `history` past trials for searches and early stopping,
`fair_share` decides the queue's order between experiments, `sweep_progress` says how far a sweep
is, `metrics` reads curves, `logged_steps` every step for the sinks. Called by the scheduler, the
service, judging and the sinks; imports the store's reader, its rows and, for writes, its writer.
"""
