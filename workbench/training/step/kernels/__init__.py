"""The Triton kernels of the training step, one module a topic.

Each module holds the kernel (a private `_name_kernel`), its launcher (public, typed, with the
launch parameters) and the same computation in plain torch (`..._reference`), which the tests hold
it against. lora/, head.py, small_kernels.py and attention/ call the launchers. The package imports
nothing else of the step. Triton is optional: every caller asks `triton_support.is_usable()` first
and has a path without it. docs/step.md#adding-a-kernel says how to add one.
"""
