"""Gated delta layers (Qwen 3.5) in the padding-free step.

rule.py computes the gated delta rule over concatenated rows, mixer.py puts it, with the convolution
and the norm around it, onto a model's layers. assembly.py calls this.
"""
