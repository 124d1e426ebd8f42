"""Plans of trials: what the store knows of a trial and its card, handed to the planner.

`planning` asks the planner, `remembered_plans` keeps its answers from tick to tick,
`measured_peaks` and `oom_fallback` tell what attempts measured and where memory ran out. Called by
`place`, `propose_trials` and `reconcile`; every plan itself comes from `footprint`.
"""
