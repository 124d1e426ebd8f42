"""Checkpoints on disk: `checkpoint` commits and verifies them, `prune` removes old ones.

The trainer commits and an attempt resumes; the scheduler starts `prune` as a child when the disk
runs full. These two import `workbench.machine` and `recipe`, and neither torch nor another package
of training, so that pruning starts at once. `contents` is a checkpoint in memory, copied
so that training goes on; `write` makes its folder, on the thread of `background_writer`.
"""
