"""Evaluations: adapters of this home and of other tools, scored on rows and not trained.

`adapter_checks` looks at the adapters while an experiment is prepared, `score_run` is the score
trial's part of an attempt. Called by `training.prepare` and `training.attempt`; imports
`training.model`, `dataset` and `scoring`.
"""
