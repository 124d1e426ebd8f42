"""Scores of a model on the held-out rows.

`held_out_loss` computes the loss of every row, `answers` generates answers and compares them by the
recipe's pattern, `results_writer` keeps the result of every row, `scores` puts all of it together
for an attempt. Called by `training.attempt` and, between steps, by the trainer. Imports
`training.control`, `failure`, `model.base` and `attempts.results_file`.
"""
