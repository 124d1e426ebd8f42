#!/usr/bin/env bash
# mlxtend 0.25.0, statsmodels 0.15.0 and baycomp 1.0.3, seen on 2026-11-29 (Python 3.11, Linux x86_64).
#
# Two adapters are right on the same rows and wrong on the same rows: there is no difference. McNemar's test with the
# correction for continuity divides (|b - c| - 1)² by b + c, that is 1 by 0, and p is 0.0: nothing could be more
# significant. That is what `mlxtend.evaluate.mcnemar` does by default, and `statsmodels…mcnemar(table, exact=False)`;
# numpy warns of the division on stderr, and a comparison of p with 0.05 goes through. With one row each way p is
# 0.48, not 1. The exact test of both gives 1. (`evaluate` raises a ZeroDivisionError: huggingface/evaluate, pull
# request 795.)
#
# baycomp's `two_on_multiple(a, a)` returns how probable it is that a model is better than itself. One half is meant
# for each side; a sample whose halves are equal counts for the first, and rounding decides the rest, so that the
# first is better with a probability of 0.63 to 0.77, by the number of tasks. The docstring promises two numbers and
# three come, the second of them 0: who reads `[1]` as the second model's side gets 0. With a region of practical
# equivalence (`rope`) everything lies in it.
#
# What the workbench does: it counts the rows on which two adapters disagree; without any, p is 1 and the interval
# of the difference holds zero (workbench/verdict/paired.py).
#
# Passes while that is so; fails if it changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    'mlxtend==0.25.0' 'statsmodels==0.15.0' 'baycomp==1.0.3' 'scipy==1.17.1' 'numpy==2.4.6' 'pandas==3.1.1'
cd "$folder"
venv/bin/python - 2> stderr <<'PY' || { cat stderr; exit 1; }
import baycomp
import numpy as np
from mlxtend.evaluate import mcnemar, mcnemar_table
from statsmodels.stats.contingency_tables import mcnemar as statsmodels_mcnemar

expected = np.ones(64, int)
first = np.r_[np.ones(50, int), np.zeros(14, int)]
one_each_way = first.copy()
one_each_way[[0, 63]] = 0, 1


def p_values(second: np.ndarray) -> dict[str, float]:
    table = mcnemar_table(expected, first, second)
    found = {
        "mlxtend": mcnemar(table)[1],
        "statsmodels, exact=False": statsmodels_mcnemar(table, exact=False).pvalue,
        "mlxtend, exact": mcnemar(table, exact=True)[1],
        "statsmodels": statsmodels_mcnemar(table).pvalue,
    }
    return {name: round(float(p), 2) for name, p in found.items()}


equal, swapped = p_values(first), p_values(one_each_way)
print("all answers alike:", equal)
print("one row each way: ", swapped)
assert list(equal.values()) == [0.0, 0.0, 1.0, 1.0]
assert list(swapped.values()) == [0.48, 0.48, 1.0, 1.0]

for tasks in (3, 6, 10, 20, 40):
    scores = np.linspace(0.5, 0.9, tasks)
    sides = [float(side) for side in baycomp.two_on_multiple(scores, scores, random_state=0)]
    with_rope = [float(side) for side in baycomp.two_on_multiple(scores, scores, rope=0.01, random_state=0)]
    print(f"baycomp, {tasks:2} tasks, the same scores twice: {[round(side, 2) for side in sides]}, rope {with_rope}")
    assert len(sides) == 3 and sides[1] == 0
    assert 0.6 < sides[0] < 0.8, tasks
    assert with_rope == [0, 1, 0]
assert "otherwise `(p_left, p_right)`" in baycomp.two_on_multiple.__doc__
PY
echo "unchanged"
