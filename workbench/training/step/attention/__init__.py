"""Attention over rows that are concatenated instead of padded.

choice.py says which implementation a card takes, implementations.py holds them, interface.py gives
them to transformers' models. assembly.py chooses and step.py attends with the choice; the planner
predicts it without torch (workbench/footprint/peak/attention_path.py), and a test holds the two
together. It imports kernels/ alone. The rules: docs/step.md#attention.
"""
