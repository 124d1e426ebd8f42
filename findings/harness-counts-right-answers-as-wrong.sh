#!/usr/bin/env bash
# lm_eval 0.4.13 with datasets 5.2.0 and pyarrow 26.0.1, seen on 2026-11-29 (Python 3.11, Linux x86_64).
#
# A task of lm-evaluation-harness compares answers with a column of a JSON lines file by `exact_match`. The
# column gets one type for all rows: where one expected answer is 2.5, the 1 of every other row is expected as
# "1.0", and where all are dates ("2024-05-06"), each is expected with a time ("2024-05-06 00:00:00"). A model
# that says exactly what the file says then scores below 1, or 0, without a warning; another row decides whether
# an answer counts. A template around the column (`"{{answer}}"`) changes nothing. Written as text, numbers count.
#
# What the workbench does: its own scorers read the rows themselves, as text; docs/scorers.md says how to write
# the answers of a task.
#
# Passes while that is so; fails if it changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    'lm_eval==0.4.13' 'datasets==5.2.0' 'pyarrow==26.0.1'
cd "$folder"
HF_HUB_OFFLINE=1 HF_DATASETS_CACHE="$folder/cache" HF_DATASETS_DISABLE_PROGRESS_BARS=1 TQDM_DISABLE=1 \
    venv/bin/python - <<'PY'
import json
from pathlib import Path
from typing import Any

from lm_eval.api.model import LM
from lm_eval.evaluator import evaluate
from lm_eval.tasks import TaskManager

Answer = str | int | float


class Parrot(LM):
    """A model that answers question N with what line N of the file says."""

    def __init__(self, said: list[str]) -> None:
        super().__init__()
        self.said = said

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        return [self.said[int(request.args[0])] for request in requests]

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = False) -> list[Any]:
        raise NotImplementedError

    loglikelihood_rolling = loglikelihood


def score(answers: list[Answer], target: str) -> tuple[float, list[str]]:
    """Return the exact match of the right answers, and what was expected instead."""
    rows = [{"question": str(number), "answer": answer} for number, answer in enumerate(answers)]
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = {
        "task": "echo", "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": "rows.jsonl"}},
        "test_split": "test", "output_type": "generate_until", "num_fewshot": 0,
        "doc_to_text": "{{question}}", "doc_to_target": target,
        "generation_kwargs": {"until": ["\n"], "max_gen_toks": 16},
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
    }  # fmt: skip
    Path("echo.yaml").write_text(json.dumps(task))
    tasks = TaskManager(include_defaults=False).load(["echo.yaml"])
    found = evaluate(Parrot([str(answer) for answer in answers]), tasks, bootstrap_iters=0, log_samples=True)
    expected = [str(sample["target"]) for sample in found["samples"]["echo"]]
    return found["results"]["echo"]["exact_match,none"], expected


for answers, expected_score, expected in (
    ([1, 2, 3, 4], 1.0, ["1", "2", "3", "4"]),
    ([1, 2, 3, 2.5], 0.25, ["1.0", "2.0", "3.0", "2.5"]),
    (["1", "2", "3", "2.5"], 1.0, ["1", "2", "3", "2.5"]),
    (["2024-05-06", "2024-05-07"], 0.0, ["2024-05-06 00:00:00", "2024-05-07 00:00:00"]),
    (["2024-05-06", "2024-05-07", "never"], 1.0, ["2024-05-06", "2024-05-07", "never"]),
):
    for target in ("answer", "{{answer}}"):
        seen = score(answers, target)
        print(f"{target:10} answers {answers}: score {seen[0]}, expected {seen[1]}")
        assert seen == (expected_score, expected), (answers, target)
PY
echo "unchanged"
