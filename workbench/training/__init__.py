"""Training: everything that runs on a card, and the preparation before it.

The packages `dataset`, `model`, `step`, `checkpoints`, `scoring` and `demo` each answer one
question; the modules here are the run path on top of them: `worker` and `foreground` start
`trial_run`, which runs the steps of `attempt`, whose training is `trainer`. The fleet starts it by
dotted name, so that nothing above imports it. The only package that imports torch, transformers,
peft, trl, bitsandbytes and datasets.
"""
