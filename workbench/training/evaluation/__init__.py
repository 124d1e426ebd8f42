"""Evaluations: adapters of this home and of other tools, scored or asked, and not trained.

`adapter_checks` looks at the adapters while an experiment is prepared, `score_run` is the score
trial's part of an attempt, `together` generates the answers of several of them in one pass, and
`chat_run` lets several of them answer a person's questions, by
`chat_answers`. Called by `training.prepare` and `training.attempt`; imports `training.model`,
`dataset`, `decode` and `scoring`.
"""
