"""The cache of prepared rows: read, checked, split, tokenised, cut and written once per digest.

The train file's columns: `input_ids`, `labels` (-100 where a token carries no loss), `length`; and
`seq_lengths` where its rows are bins of packed rows. The eval file has also `prompt_ids` (up to
where generation starts), `question` and `answer`; so has the test file, which is there if the
recipe has test rows.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.errors import DataError
from workbench.machine.files import sync_path
from workbench.recipe.schema import Data, Recipe
from workbench.text import safe_line
from workbench.training.dataset.build import make_rows
from workbench.training.dataset.files.sources import (
    DataSource,
    find_scored,
    find_sources,
    find_test,
)
from workbench.training.dataset.first_pass import Progress
from workbench.training.dataset.tokenizer_limits import without_limits

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

FORMAT = 10
"""Version of the prepared rows; raise it when equal input gives other rows, to renew the cache."""

_STAGED = ".staged-"
_STALE_S = 86_400
_IRRELEVANT = {"group_by_length", "train", "eval", "test", "revision"}
"""Settings that change no row; file names are covered by the digests of their contents."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """Prepared rows in a folder of the cache, and the numbers that describe them."""

    folder: Path
    digest: str
    """Digest of everything the rows depend on: data, settings, tokenizer, FORMAT; 32 hex digits."""
    sources: list[str | None]
    """Digests of what was read, train and eval: a file's bytes, or the hub's commit; those of a
    mixture's sources are joined by `+`. Train is None for rows that are only scored. A third one is
    there if the test rows have a source of their own."""
    eval_digest: str
    """Digest of the held-out rows; trials with equal digests are scored on the same rows."""
    shape: str
    read_rows: int
    """Training rows read, before some were held out or left out."""
    train_rows: int
    """Training rows; bins of them with `data.packing`, as for all lengths below."""
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
    """Tokens of the longest held-out or test row, after cutting."""
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
    test_digest: str = ""
    """Digest of the test rows; empty without test rows, as in caches of earlier versions."""
    test_rows: int = 0
    packed_rows: int = 0
    """Rows in all bins; 0 where rows are not packed."""
    mixture: list[dict[str, Any]] = field(default_factory=list)
    """Name, shape, rows and tokens of each source of a mixture; empty for a single source."""

    def to_json(self) -> dict[str, Any]:
        """Return all but the folder: a home may move, and the digest is the folder's name there."""
        about = asdict(self)
        del about["folder"]
        return about


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
    progress("looking for the data", 0, 0)
    train, held = find_sources(data, cache / "sources", refresh=refresh)
    test = find_test(data, cache / "sources", refresh=refresh)
    digest = prepared_digest(data, tokenizer, train, held, test)
    sources = (train, held, test)

    def make(staged: Path) -> dict[str, Any]:
        return make_rows(data, tokenizer, sources, staged, progress, processes, most_tokens)

    return cached_rows(cache, digest, _all_digests(*sources), make)


def cached_rows(
    cache: Path,
    digest: str,
    sources: list[str | None],
    make: Callable[[Path], dict[str, Any]],
) -> Prepared:
    """Return the rows of that digest from `cache`, where `make` writes them if they are new.

    `make` gets an empty folder for its arrow files and returns the other fields of `Prepared`.
    Raises what it raises, and DataError where the cache cannot be written.
    """
    folder = cache / digest
    if (known := _known(folder)) is not None:
        return known
    try:
        cache.mkdir(parents=True, exist_ok=True)
        _sweep(cache)
        with tempfile.TemporaryDirectory(prefix=_STAGED, dir=cache) as name:
            staged = Path(name) / "rows"
            staged.mkdir()
            told = {"digest": digest, "sources": sources, **make(staged)}
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


def known_rows(cache: Path, digest: str) -> Prepared:
    """Return the rows of that digest, which are in the cache; DataError where they are not."""
    found = _known(cache / digest)
    if found is None:
        raise DataError(
            f"the prepared rows {digest} are not here", hint="run the trial again: it brings them"
        )
    return found


def check_unchanged(data: Data, sources: list[str | None], cache: Path) -> None:
    """Raise DataError when a file changed since its experiment was prepared.

    The experiment's trials would no longer be comparable. A file whose size, time and inode are
    unchanged is not read again.
    """
    index = cache / "sources"
    if sources[0] is None:  # rows that are only scored
        train: list[DataSource] = []
        others = [find_scored(data, index, refresh=False)]
    else:
        train, held = find_sources(data, index, refresh=False)
        test = find_test(data, index, refresh=False)
        others = [held] if test is None else [held, test]
    befores = [*(sources[0] or "").split("+"), *sources[1:]]
    # Rows that are only scored have no training source, which stands as None before the others.
    now: list[DataSource | None] = [*train, *others] if train else [None, *others]
    for source, before in zip(now, befores, strict=True):
        if (before or None) != (source.digest if source else None):
            name = source.name if source else data.eval or data.train_names[0]
            raise DataError(
                f"the rows changed in {safe_line(name, 200)} since this experiment was submitted",
                hint="put the data back as it was and retry the trial, or submit the recipe again",
            )


def load_prepared(prepared: Prepared) -> tuple[Dataset, Dataset]:
    """Return (train, eval) as memory-mapped data sets with the columns named at the top."""
    from datasets import Dataset

    train, held = (prepared.folder / f"{name}.arrow" for name in ("train", "eval"))
    return Dataset.from_file(str(train)), Dataset.from_file(str(held))


def load_test_rows(prepared: Prepared) -> Dataset:
    """Return the test rows, memory-mapped, with the columns of the held-out rows.

    Raises DataError where the recipe has none.
    """
    if not prepared.test_rows:
        raise DataError(
            "there are no test rows", hint="name a file in data.test, or set data.test_rows"
        )
    from datasets import Dataset

    return Dataset.from_file(str(prepared.folder / "test.arrow"))


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


def _all_digests(
    train: list[DataSource], held: DataSource | None, test: DataSource | None
) -> list[str | None]:
    """Return the digests of `Prepared.sources`, of which the third is there with a test source."""
    digests = [
        "+".join(source.digest for source in train) or None,
        held.digest if held else None,
    ]
    return digests if test is None else [*digests, test.digest]


def prepared_digest(
    data: Data,
    tokenizer: PreTrainedTokenizerBase,
    train: list[DataSource],
    held: DataSource | None,
    test: DataSource | None = None,
) -> str:
    """Return the digest of everything that prepared rows depend on; 32 hexadecimal digits."""
    settings = data.model_dump(mode="json", exclude=_IRRELEVANT)
    what = {
        "format": FORMAT,
        "settings": settings,
        "sources": _all_digests(train, held, test),
        # A name's ending says how a file is read, and places in notes bear the name.
        "files": [source.path.name for source in (*train, held, test) if source and source.path],
        "tokenizer": _tokenizer_digest(tokenizer),
    }
    if not isinstance(data.train, str) and train:
        what["mixture"] = [one.model_dump(mode="json", exclude={"path"}) for one in data.train]
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:32]


def _tokenizer_digest(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return a digest of everything that decides which ids a text gets."""
    backend = without_limits(tokenizer.backend_tokenizer)
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
