"""Trials that score adapters and train nothing.

`scoring` gives them their plans and assignments, `enqueue_scores` queues those of an evaluation,
`known_scores` finds and takes over scores on the same rows, and `finalist_tests` adds those of an
ended experiment on its test rows. Called by `place`, `propose_trials` and `conclude`; imports the
store, `footprint` and `adapters`.
"""
