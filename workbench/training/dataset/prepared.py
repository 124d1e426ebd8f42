"""The cache of prepared rows: read, checked, split, tokenised, cut and written once per digest.

The train file's columns: `input_ids`, `labels` (-100 where a token carries no loss), `length`. The
eval file has also `prompt_ids` (up to where generation starts), `question` and `answer`.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.errors import DataError
from workbench.machine.files import sync_path
from workbench.recipe.schema import Data, Recipe
from workbench.text import safe_line
from workbench.training.dataset.build import make_rows
from workbench.training.dataset.files.sources import DataSource, find_sources
from workbench.training.dataset.first_pass import Progress

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

FORMAT = 7
"""Version of the prepared rows; raise it when equal input gives other rows, to renew the cache."""

_STAGED = ".staged-"
_STALE_S = 86_400
_IRRELEVANT = {"packing", "group_by_length", "train", "eval", "revision"}
"""Settings that change no row; file names are covered by the digests of their contents."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """Prepared rows in a folder of the cache, and the numbers that describe them."""

    folder: Path
    digest: str
    """Digest of everything the rows depend on: data, settings, tokenizer, FORMAT; 32 hex digits."""
    sources: list[str | None]
    """Digests of what was read, train and eval: a file's bytes, or the hub's commit."""
    eval_digest: str
    """Digest of the held-out rows; trials with equal digests are scored on the same rows."""
    shape: str
    read_rows: int
    """Training rows read, before some were held out or left out."""
    train_rows: int
    eval_rows: int
    min_length: int
    """Tokens in the shortest training row after cutting; the next five fields count alike."""
    median_length: int
    p95_length: int
    max_length: int
    mean_length: float
    length_sample: list[int]
    """Evenly spaced quantiles of the row lengths, in tokens."""
    uncut_p95_length: int
    """95th percentile of the row lengths before cutting; the next field is their maximum."""
    uncut_max_length: int
    eval_max_length: int
    """Tokens of the longest held-out row, after cutting."""
    target_tokens: int
    """Tokens of all training rows that carry loss."""
    turn_end_ids: list[int]
    """Ids that ended turns with loss in the training rows, ascending: generation stops at them."""
    cut_rows: int
    """Training rows longer than data.max_tokens."""
    dropped_rows: int
    """Training rows without a token to learn."""
    highest_id: int
    """Largest token id in any row; the model must have an embedding for it."""
    notes: list[str]
    """Data warnings in words, each with its number of rows, the first row and a hint."""
    examples: list[dict[str, Any]]
    """The first few training rows, in parts with and without loss; see `examples.Examples.take`."""

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "folder": str(self.folder)}


def prepare_data(
    recipe: Recipe,
    tokenizer: PreTrainedTokenizerBase,
    cache: Path,
    progress: Progress,
    *,
    refresh: bool = False,
    processes: int = 1,
    most_tokens: int | None = None,
) -> Prepared:
    """Return the recipe's rows as tokens, from `cache` if they were prepared before (milliseconds).

    Else reads the data twice and tokenises it, about a millisecond a row and process. `refresh`
    asks the hub whether a branch has moved; without it the commit last seen is used. From
    `MANY_ROWS` rows on, `processes` processes tokenise. `most_tokens` is what the model reads, if
    known: suggestions do not pass it. Raises DataError, with the row and a hint, for data that
    cannot be trained on.
    """
    data = recipe.data
    if data.packing:
        raise DataError(
            "data.packing is not available yet: packed examples would see one another",
            hint="set data.packing: false; the fast step lays rows end to end anyway",
        )
    progress("looking for the data", 0, 0)
    train, held = find_sources(data, cache / "sources", refresh=refresh)
    digest = _digest(data, tokenizer, train, held)
    folder = cache / digest
    if (known := _known(folder)) is not None:
        return known
    try:
        cache.mkdir(parents=True, exist_ok=True)
        _sweep(cache)
        with tempfile.TemporaryDirectory(prefix=_STAGED, dir=cache) as name:
            staged = Path(name) / "rows"
            staged.mkdir()
            about = make_rows(
                data, tokenizer, (train, held), staged, progress, processes, most_tokens
            )
            told = {"digest": digest, "sources": _digests(train, held), **about}
            text = json.dumps(told, ensure_ascii=False)
            (staged / "about.json").write_text(text, encoding="utf-8")
            _commit(staged, folder)
    except OSError as refused:
        raise DataError(
            f"the prepared rows cannot be written to {cache}: {refused.strerror or refused}",
            hint="free space on that disk, or set WORKBENCH_HOME to another",
        ) from refused
    made = _known(folder)
    assert made is not None, folder
    return made


def check_unchanged(data: Data, sources: list[str | None], cache: Path) -> None:
    """Raise DataError when a file changed since its experiment was prepared.

    The experiment's trials would no longer be comparable. A file whose size, time and inode are
    unchanged is not read again.
    """
    now = find_sources(data, cache / "sources", refresh=False)
    for source, before, after in zip(now, sources, _digests(*now), strict=True):
        if before != after:
            name = source.name if source else data.train
            raise DataError(
                f"the rows changed in {safe_line(name, 200)} since this experiment was submitted",
                hint="put the data back as it was and retry the trial, or submit the recipe again",
            )


def load_prepared(prepared: Prepared) -> tuple[Dataset, Dataset]:
    """Return (train, eval) as memory-mapped data sets with the columns named at the top."""
    from datasets import Dataset

    train, held = (prepared.folder / f"{name}.arrow" for name in ("train", "eval"))
    return Dataset.from_file(str(train)), Dataset.from_file(str(held))


def same_training_rows(cache: Path, one: str, other: str) -> bool:
    """Return True where two digests in the cache stand for the same training rows.

    A later build may name equal rows differently, because FORMAT or the way in which a tokenizer
    is loaded changed. Reads both files; False where one of them is not in the cache.
    """
    if one == other:
        return True
    from datasets import Dataset

    files = [cache / digest / "train.arrow" for digest in (one, other)]
    if not all(file.exists() for file in files):
        return False
    mine, theirs = (Dataset.from_file(str(file)).data.table for file in files)
    return bool(mine.cast(mine.schema.remove_metadata()).equals(theirs))


# ── the cache ────────────────────────────────────────────────────────────────────────────────


def _digests(train: DataSource, held: DataSource | None) -> list[str | None]:
    return [train.digest, held.digest if held else None]


def _digest(
    data: Data, tokenizer: PreTrainedTokenizerBase, train: DataSource, held: DataSource | None
) -> str:
    what = {
        "format": FORMAT,
        "settings": data.model_dump(mode="json", exclude=_IRRELEVANT),
        "sources": _digests(train, held),
        # A name's ending says how a file is read, and places in notes bear the name.
        "files": [source.path.name for source in (train, held) if source and source.path],
        "tokenizer": _tokenizer_digest(tokenizer),
    }
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:32]


def _tokenizer_digest(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return a digest of everything that decides which ids a text gets."""
    backend = tokenizer.backend_tokenizer
    backend.no_padding()
    backend.no_truncation()
    rest = [type(tokenizer).__name__, tokenizer.chat_template, tokenizer.special_tokens_map]
    text = backend.to_str() + json.dumps(rest, sort_keys=True, default=str)
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()


def _known(folder: Path) -> Prepared | None:
    try:
        about = json.loads((folder / "about.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return Prepared(folder=folder, **about)


def _commit(staged: Path, folder: Path) -> None:
    """Sync the staged files, then rename the folder into place.

    A second process that prepared the same rows finds the first one's and keeps those.
    """
    for path in (*staged.iterdir(), staged):
        sync_path(path)
    try:
        staged.rename(folder)
    except OSError:
        if _known(folder) is None:
            raise
    sync_path(folder.parent)


def _sweep(cache: Path) -> None:
    """Remove the staging folders of preparations that were killed, once they are a day old."""
    for left in cache.glob(f"{_STAGED}*"):
        with suppress(OSError):
            if time.time() - left.stat().st_mtime > _STALE_S:
                shutil.rmtree(left, ignore_errors=True)
