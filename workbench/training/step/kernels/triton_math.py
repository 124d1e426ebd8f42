"""Arithmetic that several kernels share."""

from workbench.training.step.kernels.triton_support import jit, tl


@jit
def stable_tanh(x):
    """Return tanh(x) in fp32.

    Near 0 by its Taylor series, because 2·sigmoid(2x) - 1 would cancel leading digits there.
    """
    square = x * x
    series = x * (1.0 - square * (1.0 / 3.0 - square * (2.0 / 15.0 - square * (17.0 / 315.0))))
    return tl.where(square < 0.04, series, 2.0 * tl.sigmoid(2.0 * x) - 1.0)
