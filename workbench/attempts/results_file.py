"""Files with the results of single held-out rows, written by workers and read by everybody else.

`trials/<trial>/results/<evaluation>.jsonl.gz` holds the results that a trial was scored with:

    {"evaluation": …, "tokens": …, "step": 40, "scored": true, "targets": [12, 9],
     "sums": {"loss": [3.1, 8.0], "token_accuracy": [11, 6]}, "means": {"exact_match": [1.0, null]}}
    {"row": 0, "text": "…", "extracted": "7", "right": true, "tokens": 5, "ended_by": "end"}
    {"row": 1, …}

The first line has one number for each row in every array; `null` is a row that cannot be scored.
One line a row follows where answers were generated. `<evaluation>.step-<n>.jsonl.gz` holds the
losses of a checkpoint that was compared while it trained, and has the first line only.

`evaluations/<evaluation>.jsonl.gz` in the home has a line for each row, {"question", "expected"}.

Files are written whole or not at all. Readers take them for foreign: nothing in them is trusted.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import math
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from workbench import fault_points
from workbench.machine.files import sync_path

MOST_ROWS = 100_000
"""Rows whose results are kept; of a longer evaluation set none are."""
MOST_CHARACTERS = 16_384
"""Characters of a question, an expected or a generated answer that are kept."""
MOST_FILE_BYTES = 256 << 20
"""Compressed bytes of a file that is still read."""
_MOST_HEAD_BYTES = 32 << 20
"""Bytes of the first line: `MOST_ROWS` rows with a dozen scores."""
_MOST_LINE_BYTES = 1 << 20
"""Bytes of any other line; two texts of MOST_CHARACTERS take at most 400 KB as JSON."""
_DIGEST = re.compile(r"[0-9a-f]{32}\Z")
_NAME = re.compile(r"[a-z][a-z0-9_]{0,59}(:min)?\Z")
_MOST_SCORES = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultsHead:
    """The results of one model on the rows of an evaluation set, one number for each row."""

    evaluation: str
    """Digest of the rows, and of how they are asked and judged; 32 hex digits."""
    tokens: str
    """Digest of the rows as they were tokenised; losses are comparable only where it is equal."""
    step: int
    """Optimizer steps of the weights; 0 for the base."""
    scored: bool
    """True for the trial's scores, False for a checkpoint that was compared while it trained."""
    targets: list[int]
    """Target tokens of each row."""
    sums: dict[str, list[float]]
    """Sums over the target tokens of each row, by score; `loss` is in nats."""
    means: dict[str, list[float | None]] = field(default_factory=dict)
    """Scores of each row's generated answer, by score; None for a row that cannot be scored."""


def results_path(trial_folder: Path, evaluation: str, step: int | None = None) -> Path:
    """Return the file of a trial's results; `step` names a checkpoint that was only compared."""
    name = evaluation if step is None else f"{evaluation}.step-{step}"
    return trial_folder / "results" / f"{name}.jsonl.gz"


def questions_path(home: Path, evaluation: str) -> Path:
    """Return the file with the questions and expected answers of an evaluation set."""
    return home / "evaluations" / f"{evaluation}.jsonl.gz"


def write_results(
    trial_folder: Path, head: ResultsHead, rows: Iterable[dict[str, Any]] = ()
) -> str:
    """Write a trial's results, replacing earlier ones of the same name; return the file's SHA-256.

    Equal results give equal bytes. Raises OSError, and leaves no partial file behind.
    """
    path = results_path(trial_folder, head.evaluation, None if head.scored else head.step)
    for left in path.parent.glob(".*.tmp"):  # of a worker that was killed; a trial has one
        left.unlink(missing_ok=True)
    write_lines(path, (asdict(head), *rows))
    fault_points.at("results.after_rename")
    return file_digest(path)


def write_lines(path: Path, lines: Iterable[dict[str, Any]]) -> None:
    """Write JSON lines into a compressed file: staged, flushed to disk, then renamed.

    Raises OSError, and leaves no partial file behind.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Workers of several cards may write the same questions at the same time.
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        # Without a name and a time in the header, equal lines give equal bytes.
        with partial.open("wb") as file:
            with gzip.GzipFile("", "wb", 6, file, mtime=0) as packed:
                for line in lines:
                    text = json.dumps(line, ensure_ascii=False, allow_nan=False)
                    packed.write(text.encode(errors="replace") + b"\n")
            fault_points.at("results.before_rename")
            file.flush()
            os.fsync(file.fileno())
        partial.rename(path)
    except BaseException:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise
    sync_path(path.parent)


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file; ValueError where it has more than MOST_FILE_BYTES."""
    if path.exists() and not path.is_file():  # opening a pipe would wait for a writer
        raise ValueError(f"{path.name} is no file")
    with path.open("rb") as file:
        if os.fstat(file.fileno()).st_size > MOST_FILE_BYTES:
            raise ValueError(f"{path.name} has more than {MOST_FILE_BYTES >> 20} MiB")
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_head(path: Path) -> ResultsHead:
    """Return the first line of a results file, checked.

    Raises OSError or EOFError for a file that cannot be read, and ValueError for one that holds
    anything else than finite numbers for equally many rows.
    """
    with gzip.open(path) as file:
        return _head(_parse(file.readline(_MOST_HEAD_BYTES)))


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the lines of a file, in their order, MOST_ROWS + 1 at most.

    Raises OSError, EOFError or ValueError where the file is damaged.
    """
    with gzip.open(path) as file:
        limit = _MOST_HEAD_BYTES
        for _ in range(MOST_ROWS + 1):
            line = file.readline(limit)
            if not line:
                return
            yield _parse(line)
            limit = _MOST_LINE_BYTES


def bounded_text(text: str) -> str:
    """Return the text as it is kept: MOST_CHARACTERS at most, ending in `…` where it was cut."""
    return text if len(text) <= MOST_CHARACTERS else f"{text[: MOST_CHARACTERS - 1]}…"


def check_digest(text: object) -> str:
    """Return `text` where it is a digest, which is safe in a path; else raise ValueError."""
    if not isinstance(text, str) or not _DIGEST.match(text):
        raise ValueError("a digest has 32 hexadecimal digits")
    return text


def _parse(line: bytes) -> dict[str, Any]:
    if not line.endswith(b"\n"):
        raise ValueError("a line is too long or cut off")
    try:
        data = json.loads(line, parse_constant=_refuse)
    except RecursionError:
        raise ValueError("a line is nested too deeply") from None
    if not isinstance(data, dict):
        raise ValueError("a line is not a JSON object")
    return data


def _refuse(word: str) -> float:
    raise ValueError(f"{word} is not a finite number")


def _head(data: dict[str, Any]) -> ResultsHead:
    targets, step = data.get("targets"), data.get("step")
    if not isinstance(targets, list) or not 0 < len(targets) <= MOST_ROWS:
        raise ValueError(f"there are results of 1 to {MOST_ROWS:,} rows in a file")
    if not all(type(value) is int and 0 <= value < 1 << 31 for value in targets):
        raise ValueError("target tokens are whole numbers from 0 on")
    if type(step) is not int or not 0 <= step < 1 << 53:
        raise ValueError("the step is not a whole number")
    sums = _columns(data.get("sums"), len(targets), may_lack=False)
    if "loss" not in sums:
        raise ValueError("there are no losses")
    return ResultsHead(
        evaluation=check_digest(data.get("evaluation")),
        tokens=check_digest(data.get("tokens")),
        step=step,
        scored=bool(data.get("scored")),
        targets=targets,
        sums=sums,
        means=_columns(data.get("means"), len(targets), may_lack=True),
    )


def _columns(data: object, rows: int, *, may_lack: bool) -> dict[str, list[Any]]:
    """Return arrays by name, as floats; None stays where rows may lack a number."""
    if not isinstance(data, dict) or len(data) > _MOST_SCORES:
        raise ValueError(f"scores are a table with {_MOST_SCORES} names at most")
    found: dict[str, list[Any]] = {}
    for name, values in data.items():
        if not _NAME.match(name):
            raise ValueError("a score's name has small letters, digits, _ and :min only")
        if not isinstance(values, list) or len(values) != rows:
            raise ValueError(f"{name} has not one number for each of the {rows} rows")
        found[name] = [None if v is None and may_lack else _finite(name, v) for v in values]
    return found


def _finite(name: str, value: object) -> float:
    try:
        if isinstance(value, (int, float)) and type(value) is not bool and math.isfinite(value):
            return float(value)
    except OverflowError:  # a whole number with hundreds of digits
        pass
    raise ValueError(f"{name} has a value that is not a finite number")
