"""Plans of trials: what the store knows of a trial and its card, handed to the planner.

`planning` asks the planner for trials that train, `scoring_trials` for those that do not, and
`remembered_plans` keeps the answers from tick to tick. `measured_peaks` and `oom_fallback` read
what attempts measured and where memory ran out. Called by `place`, `propose_trials` and
`reconcile`; every plan itself comes from `footprint`.
"""
