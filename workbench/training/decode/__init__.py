"""Generation by static key-value caches and CUDA graphs, for scoring answers and for chat.

`FastForward` (forward.py) replaces the forward of a decoder's layers while no gradients are needed;
cache.py holds keys and values, lanes.py runs many prompts at once over them, draws.py chooses
tokens that are sampled, and generate.py takes prompts and gives tokens. Called by scoring/ and
evaluation/; imports the kernels and the frozen weights of step/, never its optimizer.
docs/decode.md follows a batch of prompts through it.
"""
