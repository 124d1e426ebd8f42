"""Trials that score adapters and train nothing.

`scoring` says what each scores, `enqueue_scores` queues those of an evaluation, `known_scores`
takes over scores on the same rows, `finalist_tests` adds those on the test rows of an experiment
that has ended, and `together` and `base_beside` find those that are answered in one pass. Called by
`place`, `propose_trials` and `conclude`; imports the store, `footprint`, `adapters` and `plans`.
"""
