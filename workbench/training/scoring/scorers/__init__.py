"""Scorers: each gives a generated answer a number, by comparing it with the expected answer.

`text_scorers` has the built-in ones as pure functions, `number_text` and `extraction` prepare what
they compare. `own_scorers` finds the user's own files, `sandbox` runs one in a process of its own,
in which `scorer_child` is the only module. `answer_scores` applies the scorers that a recipe names;
`scorer_checks` tries them before anything is queued. Called by `training.scoring` and
`training.recipe_checks`. Imports neither torch nor the store.
"""
