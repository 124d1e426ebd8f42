"""The loading of a model's tokenizer, with the checks that training needs."""

from __future__ import annotations

import copy
import re
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast
from transformers.utils import cached_file

from workbench.errors import ModelError
from workbench.text import safe_line
from workbench.training.dataset.tokenizer_limits import without_limits
from workbench.training.model.portable import save_tokenizer
from workbench.training.model.weights import refuse_pointer
from workbench.user_config import may_run_its_code

_FILES = ("tokenizer.json", "tokenizer_config.json")
_PADS = ("<|finetune_right_pad_id|>", "<pad>", "<|pad|>", "[PAD]", "<|reserved_special_token_0|>")
_RESERVED = re.compile(r"reserved|unused|placeholder|extra_id|<\|dummy", re.IGNORECASE)

_PROBE = (
    "It's 0123456789, 3.14 and 1,000;  don't\tSTOP at x_1 = f(y)!\n\n  Zürich 東京 🦜 it is\r\n"
)
"""A text on which tokenizers of one vocabulary differ: digits, blanks, contractions, scripts."""


class KeptTokenizer:
    """A holder of at most one tokenizer, which the trials of a model have one after another.

    Loading one of 128,000 tokens takes a second, for each trial.
    """

    def __init__(self) -> None:
        self._held: _Held | None = None

    def take(self, path: str, revision: str | None) -> PreTrainedTokenizerBase:
        """Return the tokenizer as it was loaded, whatever an earlier trial did to its own.

        It is loaded where another one is held, or where a file of its folder changed. Raises
        ModelError as `load_tokenizer` does.
        """
        files = _text_files(path)
        held = self._held
        if held is None or (held.path, held.revision, held.files) != (path, revision, files):
            self._held = None
            self._held = held = _Held(path, revision, files, load_tokenizer(path, revision))
        return held.fresh()

    def save(self, folder: Path) -> None:
        """Write the files of `save_tokenizer`, of the tokenizer as it was loaded, into the folder.

        They are made once: 128,000 tokens take 0.2 to 0.3 s, and 10 ms to write again. The
        tokenizer that was taken last loses its truncation and padding.
        """
        assert self._held is not None, "a tokenizer is taken first"
        for name, content in self._held.files_saved().items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(content)

    def release(self) -> None:
        """Release the tokenizer and its memory."""
        self._held = None


@dataclass(frozen=True, slots=True)
class _Held:
    path: str
    revision: str | None
    files: tuple[tuple[str, int, int], ...]
    tokenizer: PreTrainedTokenizerBase
    saved: dict[str, bytes] = field(default_factory=dict)

    def files_saved(self) -> dict[str, bytes]:
        """Return the contents of `save_tokenizer`'s files by name, made the first time."""
        if not self.saved:
            with tempfile.TemporaryDirectory() as made:
                folder = Path(made)
                save_tokenizer(self.fresh(), folder, self.path, self.revision)
                files = [file for file in folder.rglob("*") if file.is_file()]
                self.saved.update({str(f.relative_to(folder)): f.read_bytes() for f in files})
        return self.saved

    def fresh(self) -> PreTrainedTokenizerBase:
        """Return a tokenizer with attributes of its own over the same vocabulary."""
        made = copy.copy(self.tokenizer)
        for name, value in vars(self.tokenizer).items():
            if isinstance(value, dict | list | set):
                setattr(made, name, value.copy())
        without_limits(made.backend_tokenizer)
        return made


def _text_files(path: str) -> tuple[tuple[str, int, int], ...]:
    """Return name, bytes and modification time (ns) of a folder's files besides the weights."""
    found = [
        (file.name, file.stat())
        for file in sorted(Path(path).glob("*"))
        if file.is_file() and file.suffix != ".safetensors"
    ]
    return tuple((name, stat.st_size, stat.st_mtime_ns) for name, stat in found)


def load_tokenizer(path: str, revision: str | None) -> PreTrainedTokenizerBase:
    """Load the model's tokenizer, padding on the right with a token it already has.

    Texts get the ids that the model's own tokenizer.json gives. Its truncation and padding are left
    out: they are of somebody's last call (findings/tokenizer-file-keeps-the-last-call.sh).
    Raises ModelError when it cannot be loaded, is not a fast tokenizer or names no end token.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            path,
            revision=revision,
            trust_remote_code=may_run_its_code(path, revision),
            padding_side="right",
        )
    except Exception as broken:  # OSError, ValueError, and whatever tokenizers raises
        hint = "the model's folder must hold tokenizer.json and tokenizer_config.json"
        here = [file for name in _FILES if (file := Path(path) / name).is_file()]
        for file in here:
            refuse_pointer(file)
        if len(here) == len(_FILES):
            hint = f"copy {' and '.join(_FILES)} again: one of them is damaged, or does not fit"
        raise ModelError(
            f"the tokenizer of {safe_line(path, 200)} cannot be loaded: {safe_line(broken, 200)}",
            hint=hint,
        ) from broken
    if not tokenizer.is_fast:
        raise ModelError(
            f"{safe_line(path, 200)} has no fast tokenizer",
            hint="add a tokenizer.json (transformers converts most), or pick another model",
        )
    tokenizer = _with_own_ids(tokenizer, path, revision)
    without_limits(tokenizer.backend_tokenizer)
    if tokenizer.eos_token_id is None:
        raise ModelError(
            f"the tokenizer of {safe_line(path, 200)} names no end-of-sequence token",
            hint="set eos_token in its tokenizer_config.json to the token that ends a turn",
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = _pad_token(tokenizer)
    return tokenizer


def _with_own_ids(
    tokenizer: PreTrainedTokenizerBase, path: str, revision: str | None
) -> PreTrainedTokenizerBase:
    """Return the tokenizer, or the one its tokenizer.json describes where their ids differ.

    transformers 5 rebuilds the tokenizers of some model types (qwen2, cohere) from the vocabulary
    alone, with a pre-tokenizer of its own: numbers came out digit by digit although the model was
    trained with others.
    """
    if "transformers_modules" in type(tokenizer).__module__:
        return tokenizer  # the user allowed the model's own code, which decides
    file = cached_file(
        path, "tokenizer.json", revision=revision, _raise_exceptions_for_missing_entries=False
    )
    if file is None:
        return tokenizer
    found = [tokenizer.backend_tokenizer, Tokenizer.from_file(file)]
    ids, own = (without_limits(one).encode(_PROBE, add_special_tokens=False).ids for one in found)
    if ids == own:
        return tokenizer
    return PreTrainedTokenizerFast.from_pretrained(path, revision=revision, padding_side="right")


def _pad_token(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return a token that stands in no text.

    It is never a new one: the adapter holds no embeddings, so that a new token would have none.
    """
    added = [str(token) for token in tokenizer.added_tokens_decoder.values()]
    reserved = [name for name in added if _RESERVED.search(name)]
    for name in (*_PADS, *reserved):
        if name in added:
            return name
    return str(tokenizer.unk_token or tokenizer.eos_token)
