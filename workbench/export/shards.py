"""A merge written shard by shard, as the base's own files are cut."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from workbench.adapters.adapter_folder import WEIGHTS
from workbench.adapters.lora_settings import CONFIG
from workbench.errors import ModelError
from workbench.export.agreement import (
    LARGE_BYTES,
    LARGE_ROWS,
    MOST_ROWS,
    Agreement,
    CheckedRow,
    compare,
    read_rows,
    rows_of_text,
)
from workbench.export.base_files import BaseFiles
from workbench.export.changes import (
    EMBED,
    HEAD,
    Changes,
    check_against_base,
    embedding_name,
    read_changes,
    vocabulary,
)
from workbench.export.shard_writer import TensorPlan, index_text, write_shard
from workbench.export.streamed import StreamedModel
from workbench.machine.files import write_durably
from workbench.machine.staging import file_sha256
from workbench.text import safe_line
from workbench.training.model.merge import PROBE
from workbench.training.model.weights import INDEX, read_config


@dataclass(frozen=True)
class Job:
    """One merge: an adapter, its base, and where the result is made."""

    adapter: Path
    staged: Path
    base: str
    """A folder or a hub id."""
    revision: str | None
    dtype: str | None
    tokenizer: Any
    rows_file: Path | None

    @cached_property
    def base_folder(self) -> Path:
        """The folder of the base's files; a hub model's in the hub's cache."""
        if (folder := Path(self.base)).is_dir():
            return folder
        from huggingface_hub import snapshot_download

        patterns = ["*.safetensors", "*.json"]
        found = snapshot_download(self.base, revision=self.revision, allow_patterns=patterns)
        return Path(found)

    @cached_property
    def config(self) -> Any:
        """The base's configuration, without its quantisation."""
        config = read_config(self.base, self.revision)
        config.__dict__.pop("quantization_config", None)
        config._attn_implementation = "eager"  # a name from the hub could be code
        return config

    def digest(self) -> str:
        """Return a digest of everything that the merged weights depend on."""
        files = [(one.name, one.stat().st_size) for one in sorted(self.base_folder.iterdir())]
        about = {
            "adapter": file_sha256(self.adapter / WEIGHTS),
            "config": file_sha256(self.adapter / CONFIG),
            "base": [str(self.base_folder), files],
            "dtype": self.dtype,
        }
        return hashlib.sha256(json.dumps(about).encode()).hexdigest()

    def checked_rows(self) -> tuple[list[CheckedRow], str]:
        """Return the rows to compare on, and what they are, in words."""
        size = sum(file.stat().st_size for file in self.base_folder.glob("*.safetensors"))
        most = LARGE_ROWS if size > LARGE_BYTES else MOST_ROWS
        if rows := read_rows(self.rows_file, most):
            return rows, "held-out rows"
        return rows_of_text(self.tokenizer, PROBE), "a text of the workbench"


def merge_by_shard(job: Job, progress: Callable[[int, int], None]) -> dict[str, Any]:
    """Write the merged weights and config.json, and return the report with its `agreement`.

    Raises NotByWeight where that needs the whole model, and ModelError where adapter and base do
    not fit.
    """
    changes, base = read_changes(job.adapter), BaseFiles(job.base_folder)
    text = job.config.get_text_config()
    tied = bool(text.tie_word_embeddings) and not any(n.endswith(HEAD) for n in base.names)
    check_against_base(changes, base, tied=tied, shown=job.base)
    rows = vocabulary(changes, base, tied=tied)
    embedding_rows = rows or base.shape(embedding_name(set(base.names)))[0]
    if len(job.tokenizer) > embedding_rows:
        raise ModelError(
            f"the adapter's tokenizer has {len(job.tokenizer)} tokens, the model {embedding_rows}",
            hint="merge it where it was trained, with the embeddings that belong to it",
        )
    known = copy.deepcopy(job.config)
    known.get_text_config().vocab_size = embedding_rows if rows else text.vocab_size
    merged = copy.deepcopy(known)
    untied = tied and _must_untie(changes)
    if untied:
        merged.tie_word_embeddings = merged.get_text_config().tie_word_embeddings = False
    kind = _write(job, changes, base, _added_head(changes, base) if untied else {}, progress)
    merged.dtype = kind
    merged.save_pretrained(job.staged)
    found, about = _compare(job, known, merged, base)
    return {
        "dtype": str(kind).removeprefix("torch."),
        "dequantized": base.dequantised,
        "untied": untied,
        "by_shard": True,
        "checked_on": about,
        **found.to_json(),
        "agreement": found,
    }


def _must_untie(changes: Changes) -> bool:
    """Return True where embedding and head, which are one weight of the base, come out apart."""
    changed = changes.names()
    head = any(name.endswith(HEAD) for name in changed)
    return head or (not changes.keeps_ties and any(name.endswith(EMBED) for name in changed))


def _added_head(changes: Changes, base: BaseFiles) -> dict[str, str]:
    """Return the name of a head that the base's files do not hold, with the weight it starts as."""
    embedding = embedding_name(set(base.names))
    head = next((name for name in changes.names() if name.endswith(HEAD)), HEAD)
    return {head: embedding}


def _write(
    job: Job,
    changes: Changes,
    base: BaseFiles,
    added: dict[str, str],
    progress: Callable[[int, int], None],
) -> torch.dtype:
    """Write the files that are not there yet, and return the dtype of most weights' bytes."""
    wanted: torch.dtype | None = None if job.dtype is None else getattr(torch, job.dtype)
    files = base.files()
    for head, embedding in added.items():
        next(names for names in files.values() if embedding in names).append(head)
    source = {**{name: name for names in files.values() for name in names}, **added}

    def plan(name: str) -> TensorPlan:
        whole = changes.replaced.get(name)
        shape = base.shape(source[name]) if whole is None else tuple(whole.shape)
        return TensorPlan(wanted or base.dtype(source[name]), shape)

    def make(name: str) -> torch.Tensor:
        new = changes.apply(name, base.read(source[name])).to(plan(name).dtype)
        if not bool(torch.isfinite(new).all()):
            kind = str(plan(name).dtype).removeprefix("torch.")
            raise ModelError(
                f"{safe_line(name, 120)} has numbers beyond {kind}'s range",
                hint="take --dtype bfloat16 or float32",
            )
        return new

    plans = {file: {name: plan(name) for name in names} for file, names in files.items()}
    total = sum(one.bytes for shard in plans.values() for one in shard.values())
    done, by_kind = 0, dict[torch.dtype, int]()
    for file, shard in plans.items():
        for one in shard.values():
            by_kind[one.dtype] = by_kind.get(one.dtype, 0) + one.bytes
        size = sum(one.bytes for one in shard.values())
        if not (job.staged / file).exists():
            before, count = done, [0]

            def written(more: int, before: int = before, count: list[int] = count) -> None:
                count[0] += more
                progress(before + count[0], total)

            write_shard(job.staged / file, shard, make, written)
        done += size
        progress(done, total)
    if len(plans) > 1 or "model.safetensors" not in plans:
        text = index_text({file: list(names) for file, names in plans.items()}, total)
        write_durably(job.staged / INDEX, text.encode())
    return max(by_kind, key=lambda kind: by_kind[kind])


def _compare(job: Job, known: Any, merged: Any, base: BaseFiles) -> tuple[Agreement, str]:
    """Compare base and adapter, as PEFT computes them, with what was written."""
    rows, about = job.checked_rows()
    written = BaseFiles(job.staged)
    before = StreamedModel(known, base.read, set(base.names), job.adapter)
    after = StreamedModel(merged, written.read, set(written.names), None)
    return compare(rows, before.logits, after.logits), about
