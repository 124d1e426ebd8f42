"""Predicts the peak bytes of one way to run a recipe.

`buckets` adds everything up, `layers` counts the tensors of one layer in a training step,
`scoring_bytes` those of an evaluation, and `attention_path` names the attention kernel that a card
gets. The planner's search calls `buckets.predict` thousands of times, so that all of it is
arithmetic on a ModelShape, a Recipe and a Run. It imports footprint.model, the recipe's schema and
machine.cards.
"""
