"""Scores of a model on the held-out rows.

`held_out_loss` computes the loss, `answers` generates answers and compares them by the recipe's
pattern, `scores` puts both together for an attempt. Called by `training.attempt` and, between
steps, by the trainer. Imports `training.control`, `failure` and `model.base`.
"""
