"""LoRA projections as one autograd function for each group of projections that share an input.

`FusedProjections` (patch.py) replaces the forward of a decoder's linear layers; group.py and
functions.py compute, adapters.py and frozen_weight.py hold the weights, remake.py lets a norm or a
gated activation be made again instead of kept. assembly.py calls this; it imports kernels/ and the
flat buffer of optimizer/. What it saves: docs/step.md#fused-lora.
"""
