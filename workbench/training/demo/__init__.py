"""The generator of the demo that ships with the workbench: its rows, tokenizer and small model.

`world` draws the texts from a seed, `make` trains the tokenizer and the model and writes both to
`workbench/demo`. Run by hand (`python -m workbench.training.demo.make`); nothing imports it at run
time. Imports torch, transformers and tokenizers, and nothing else of the workbench.
"""
