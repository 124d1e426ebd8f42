"""The merge of an adapter into its base: one plain transformers folder, never in 4 bits.

A merge into 4-bit weights would round the adapter away. The base's original weights are used; where
a base exists only quantised, its weights are dequantised first. Shards are written one by one: a
merge that was killed continues behind its last whole shard, and appears whole or not at all.

    python -m workbench.export.merge ADAPTER OUT [--base PATH] [--dtype KIND] [--rows FILE]
"""

from __future__ import annotations

import os
import signal
import sys

if __name__ == "__main__":  # ctrl-c while the imports below run would print a traceback
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))

import argparse
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from workbench.adapters.adapter_folder import WEIGHTS
from workbench.adapters.lora_settings import CONFIG
from workbench.adapters.published_base import published_base
from workbench.errors import ModelError, NotThere
from workbench.export.child import print_report
from workbench.machine import staging
from workbench.machine.files import write_durably
from workbench.text import safe_line
from workbench.training import libraries
from workbench.training.model.merge import (
    DTYPES,
    apply_umask,
    as_model_error,
    check_base_is_here,
    find_end_ids,
    free_place,
    path_of,
    tokenizer_of,
)

PLAN = "merge-plan.json"
"""The file of an unfinished merge that says what its shards were made from."""
REPORT = "export.json"
"""The file of a merged model with the report of its merge."""
Progress = Callable[[int, int], None]


def merge_adapter(
    adapter_folder: Path,
    out: Path,
    base_path: str | None = None,
    dtype: str | None = None,
    rows: Path | None = None,
    progress: Progress = lambda *_: None,
) -> dict[str, Any]:
    """Write base and adapter as one model to `out`, whole or not at all, and return a report.

    Runs on the CPU, a shard at a time. `dtype` is one of DTYPES; by default every weight keeps the
    dtype of the base's file. `rows` is an arrow file of prepared rows to compare on, instead of
    PROBE. `progress` gets the bytes written and all bytes. The report holds `base`, `dtype`,
    `dequantized`, `bytes`, `eos_token_id` (the tokens that end an answer), and the fields of
    `agreement.Agreement`. Raises NotThere and ModelError for adapter and base, UsageError where
    `out` exists or another process merges to it, WorkbenchError where it cannot be written.
    """
    out = free_place(out)
    if base_path and os.path.isdir(base_path):  # a relative path would pass for a hub's name
        base_path = os.path.abspath(base_path)
    _check_adapter(adapter_folder)
    with staging.writing(out), staging.alone(out):
        return _merge_staged(free_place(out), adapter_folder, base_path, dtype, rows, progress)


def _merge_staged(
    out: Path,
    adapter: Path,
    base_path: str | None,
    dtype: str | None,
    rows: Path | None,
    progress: Progress,
) -> dict[str, Any]:
    """Merge into the folder beside `out`, which holds what a killed merge left, and publish it."""
    staged = staging.staged_path(out)
    try:
        # Made before the model is loaded, so that a refusal comes at once.
        staged.mkdir(exist_ok=True)
        report = _merge(adapter, staged, base_path, dtype, rows, progress)
        write_durably(staged / REPORT, (json.dumps(report, indent=2) + "\n").encode())
        (staged / PLAN).unlink(missing_ok=True)
        apply_umask(staged)
        staging.publish_folder(staged, out, replace=False)
        return report
    except KeyboardInterrupt:
        if not list(staged.glob("*.safetensors")):
            shutil.rmtree(staged, ignore_errors=True)
        raise
    except BaseException:
        shutil.rmtree(staged, ignore_errors=True)
        raise


def _check_adapter(folder: Path) -> None:
    if not (folder / CONFIG).is_file():
        raise NotThere(f"{safe_line(folder)} holds no adapter", hint="give its folder")
    if not (folder / WEIGHTS).is_file():
        raise ModelError(
            f"{safe_line(folder)} holds no safetensors weights; pickled ones can run code",
            hint="give an adapter with adapter_model.safetensors",
        )


def _merge(
    adapter: Path,
    staged: Path,
    base_path: str | None,
    dtype: str | None,
    rows: Path | None,
    progress: Progress,
) -> dict[str, Any]:
    libraries.import_libraries(threads=None)
    from peft import PeftConfig

    from workbench.export import whole_model
    from workbench.export.agreement import check_agreement
    from workbench.export.changes import NotByWeight
    from workbench.export.shards import Job, merge_by_shard
    from workbench.training.model.weights import check_weights

    with as_model_error(adapter):
        config = PeftConfig.from_pretrained(adapter)
    base = path_of(base_path or str(config.base_model_name_or_path))
    check_base_is_here(base)
    revision = None if base_path else config.revision
    _check_revision(str(config.base_model_name_or_path), config.revision, base_path)
    check_weights(base, revision, attention="eager")
    tokenizer, source = tokenizer_of(adapter, base, revision)
    job = Job(adapter, staged, base, revision, dtype, tokenizer, rows)
    _forget_other_merge(staged, job.digest())
    try:
        with as_model_error(adapter):
            report = merge_by_shard(job, progress)
    except NotByWeight:
        _forget_other_merge(staged, "")
        report = whole_model.merge_whole(job)
    ends = _write_configuration(job, source)
    check_agreement(report.pop("agreement"), str(report["dtype"]))
    size = sum(file.stat().st_size for file in staged.iterdir())
    return {"base": base_path or str(config.base_model_name_or_path), "bytes": size} | {
        **report,
        "eos_token_id": ends,
    }


def _write_configuration(job: Any, source: tuple[str, str | None]) -> list[int]:
    """Write tokenizer and generation settings; return the ids that end an answer."""
    from transformers import GenerationConfig

    from workbench.training.model.portable import add_older_names, save_tokenizer

    try:
        generation = GenerationConfig.from_pretrained(job.base, revision=job.revision)
    except (OSError, ValueError):
        generation = GenerationConfig()
    ends = find_end_ids(generation, job.tokenizer, job.adapter)
    generation.eos_token_id = ends
    generation.save_pretrained(job.staged)
    add_older_names(job.staged, job.base, job.revision)
    save_tokenizer(job.tokenizer, job.staged, *source)
    return ends


def _check_revision(trained_on: str, revision: str | None, base_path: str | None) -> None:
    """Raise ModelError where `--base` is another commit of the model that was trained on."""
    if base_path is None or revision is None:
        return
    given = published_base(path_of(base_path))
    if given.name == trained_on and given.revision not in (None, revision):
        raise ModelError(
            f"the adapter was trained on commit {safe_line(revision, 40)} of "
            f"{safe_line(trained_on, 120)}, and --base is commit {given.revision}",
            hint="leave --base out: that commit is taken from the hub or its cache",
        )


def _forget_other_merge(staged: Path, digest: str) -> None:
    """Empty the folder unless its shards come from the same merge, and note which one it is."""
    plan = staged / PLAN
    same = plan.is_file() and plan.read_text(encoding="utf-8") == digest
    for file in staged.iterdir():
        whole = file.name.endswith(".safetensors") or file == plan
        if not (same and whole):
            shutil.rmtree(file) if file.is_dir() else file.unlink()
    if digest:
        write_durably(plan, digest.encode())


def _print_progress(done: int, total: int) -> None:
    """Redraw a bar on a terminal's stderr; print every tenth elsewhere."""
    share = done / max(1, total)
    if sys.stderr.isatty():
        bar = "#" * int(30 * share)
        end = "\n" if done >= total else ""
        print(f"\rmerging [{bar:<30}] {share:4.0%}", end=end, file=sys.stderr, flush=True)


def main() -> int:
    """Merge as the command line asks, print the report as JSON and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("adapter", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--base")
    parser.add_argument("--dtype", choices=DTYPES)
    parser.add_argument("--rows", type=Path)
    parser.add_argument("--json", action="store_true", help="accepted; JSON is always printed")
    given = parser.parse_args()
    staged = staging.staged_path(given.out)
    return print_report(
        lambda: merge_adapter(
            given.adapter, given.out, given.base, given.dtype, given.rows, _print_progress
        ),
        after_ctrl_c=lambda: "the same command continues" if staged.exists() else "",
    )


if __name__ == "__main__":
    sys.exit(main())
