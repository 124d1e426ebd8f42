"""A recipe with a sweep on a set of cards: its largest trial, what all trials share, its outlooks.

The engine settles an experiment by `resolve_once`, and `plan`, `check` and the screen answer by
`card_outlooks`, which asks it too.
"""
