"""Chats as tokens: the template, the turns, what ends them, and which tokens carry loss.

`rendering` turns a row into tokens with its loss mask, `shown` finds what the template leaves out
or adds; `turn_ends` decides once which tokens end a trained turn, for scoring, merging and exports
too. The other modules of `dataset` use it. It may import `dataset.rows` and `dataset.files`, and
nothing else of training.
"""
