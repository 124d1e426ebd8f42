#!/usr/bin/env bash
# optuna 5.0.0, seen on 2026-11-28 (Python 3.11, Linux x86_64).
#
# A study is rebuilt from records: `create_trial(value=..., intermediate_values=...)` for each earlier
# trial, then `add_trial`. MedianPruner compares a new trial with them. SuccessiveHalvingPruner does not:
# it compares values that it noted in `system_attrs` while a trial ran (`completed_rung_N`), which a
# recreated trial lacks. A trial that is worse than every earlier one is then never pruned, without a
# warning.
#
# What the workbench does: it keeps the rungs itself (table `rungs`) and compares there
# (workbench/search/stopping.py).
#
# Passes while that is so; fails if it changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check 'optuna==5.0.0'
cd "$folder"
venv/bin/python - <<'PY'
import optuna

optuna.logging.set_verbosity(optuna.logging.ERROR)
curves = [{step: loss for step in (1, 2, 4)} for loss in (0.1, 0.2, 0.3, 0.4)]


def halving() -> optuna.pruners.BasePruner:
    return optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=2)


def worst_is_pruned(study: optuna.Study) -> bool:
    trial = study.ask()
    trial.report(0.9, 1)
    return bool(trial.should_prune())


live = optuna.create_study(pruner=halving())
for curve in curves:
    trial = live.ask()
    for step, loss in curve.items():
        trial.report(loss, step)
        trial.should_prune()
    live.tell(trial, curve[4])

rebuilt = optuna.create_study(pruner=halving())
median = optuna.create_study(pruner=optuna.pruners.MedianPruner(n_startup_trials=2))
for curve in curves:
    rebuilt.add_trial(optuna.create_trial(value=curve[4], intermediate_values=curve))
    median.add_trial(optuna.create_trial(value=curve[4], intermediate_values=curve))

seen = {
    "halving, live": worst_is_pruned(live),
    "halving, rebuilt": worst_is_pruned(rebuilt),
    "median, rebuilt": worst_is_pruned(median),
}
print(seen)
assert seen == {"halving, live": True, "halving, rebuilt": False, "median, rebuilt": True}
PY
echo "unchanged"
