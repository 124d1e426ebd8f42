"""Optimizers over one flat buffer that holds every trained parameter.

`FlatParameters` moves the parameters into the buffer; `FlatOptimizer` clips, undoes the loss scale,
skips bad steps and counts, all without a wait; adamw.py and library_optimizers.py hold the updates.
assembly.py chooses one; in_trainer.py gives it to the Trainer. The package imports torch and
bitsandbytes alone. What it saves: docs/step.md#flat-adamw.
"""
