"""Triton kernels of generation, each beside its reference in torch.

Called by the rest of decode/; imports Triton's support and the mathematics of step/kernels.
"""
