"""One attempt of a trial: from its assignment to the way it ended.

`run` is the way through an attempt, `setting` what all of its steps share, `tuning` the training of
an adapter, and `kept_weights` the choice of the weights that are scored and saved. Called by
`training.trial_run`; imports every wing of training below it.
"""

from workbench.training.attempt.run import AttemptRun

__all__ = ["AttemptRun"]
