"""Arithmetic that several kernels share."""

from workbench.training.step.kernels.triton_support import jit, tl


@jit
def sigmoid(x):
    """Return 1 / (1 + exp(-x)) in fp32.

    By a power of two and a square root's inverse, which are one instruction each: 5 in all, where
    Triton's own takes 12, for the ends of the ranges of exp and of the division.
    """
    root = tl.rsqrt(1.0 + tl.exp2(-1.4426950408889634 * x))
    return root * root


@jit
def stable_tanh(x):
    """Return tanh(x) in fp32.

    Near 0 by its Taylor series, because 2·sigmoid(2x) - 1 would cancel leading digits there.
    """
    square = x * x
    series = x * (1.0 - square * (1.0 / 3.0 - square * (2.0 / 15.0 - square * (17.0 / 315.0))))
    return tl.where(square < 0.04, series, 2.0 * sigmoid(2.0 * x) - 1.0)
