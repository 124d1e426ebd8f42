"""Model sources: a shipped folder, a local folder or a commit on the hub, pinned and checked.

Imports no torch. A question to the hub takes a few seconds; without a network the hub's cache on
this machine is used.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from queue import Empty, Queue
from typing import Any, TypeVar, cast

from workbench.errors import ModelError
from workbench.footprint.model.loadable import refuse_unloadable
from workbench.footprint.model.weight_counts import without_counts
from workbench.recipe.names import local_path
from workbench.recipe.schema import Model
from workbench.text import safe_line
from workbench.training.model.weights import (
    INDEX,
    WEIGHTS,
    named_files,
    refuse_adapter_beside,
)
from workbench.user_config import may_run_its_code

TIMEOUT_S = 8.0
"""Seconds to wait for one answer of the hub."""
ALL_TRIES_S = 60.0
"""Seconds for a model's description with all retries: the hub's client retries for minutes."""

Given = TypeVar("Given")
_COMMIT = re.compile(r"[0-9a-f]{40}\Z")
_NEEDED = ["*.safetensors", "*.json", "*.jinja", "*.model", "*.txt"]
_IGNORED = ["*/*", "consolidated*"]
"""Folders, and Mistral's second copy of the weights, which transformers does not read."""
_PICKLED = (".bin", ".pt", ".pth", ".ckpt")
_IMPLEMENTATIONS = ("attn_implementation", "experts_implementation")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSource:
    """A model whose place and revision are known, with its configuration."""

    path: str
    """A local folder or a hub id, as transformers takes it."""
    revision: str | None
    """The hub's commit; None for a folder."""
    config: dict[str, Any]
    """The content of config.json; as prepared, with the counts of the model's weights."""
    model_type: str
    """The architecture's name in config.json, for example "llama"."""

    def to_json(self) -> dict[str, Any]:
        """Return the fields for prepared.json."""
        return asdict(self)


def resolve_model(model: Model) -> ModelSource:
    """Return the model's source with its revision pinned and its config.json read.

    Takes seconds for a hub model (at most ALL_TRIES_S) and reads no weights. Raises ModelError,
    with a hint, for a model that is missing, behind a licence, pickled, or wants code to be run.
    """
    folder = local_path(model.name)
    source = _from_hub(model.name, model.revision) if folder is None else _from_folder(folder)
    _check_quantization(source, model.quantization)
    return source


def _check_quantization(source: ModelSource, wanted: str) -> None:
    """Raise ModelError for a base that is published in fewer bits than the recipe can train on."""
    stored = source.config.get("quantization_config")
    if not stored:
        return
    stored = stored if isinstance(stored, dict) else {}
    shown = safe_line(source.path, 200)
    in_4_bits = bool(stored.get("load_in_4bit") or stored.get("_load_in_4bit"))
    if in_4_bits and stored.get("bnb_4bit_quant_type") == "nf4":
        if wanted != "nf4":
            raise ModelError(
                f"{shown} is published in 4 bits (NF4), and model.quantization is {wanted}",
                hint="set model.quantization: nf4, or pick the model's original weights",
            )
        return
    method = "bitsandbytes" if in_4_bits or stored.get("load_in_8bit") else "unknown"
    method = safe_line(stored.get("quant_method") or method, 40)
    if in_4_bits:
        method += f" {safe_line(stored.get('bnb_4bit_quant_type') or 'fp4', 20)}"
    raise ModelError(
        f"{shown} is published quantised ({method}), which is not trained on",
        hint="pick the model's original weights; NF4 is made of them while they are loaded",
    )


def fetch_weights(source: ModelSource) -> None:
    """Download a hub model's files, so that no card waits for them; do nothing for a folder.

    A broken download resumes, and files that are here cost one question to the hub. A commit never
    changes, so that a hub that cannot be asked does no harm where the weights are here already.
    Raises ModelError when the download fails, or leaves a file of weights out.
    """
    if source.revision is None:
        return
    from huggingface_hub import snapshot_download

    shown = safe_line(source.path, 200)
    hint = "check network and disk space, and submit again: the download continues where it stopped"
    try:
        snapshot_download(
            source.path,
            revision=source.revision,
            allow_patterns=_NEEDED,
            ignore_patterns=_IGNORED,
            etag_timeout=TIMEOUT_S,
        )
    except Exception as refused:  # the hub's errors, OSError, and those of whichever httpx it uses
        if has_weights(source) and not _was_refused(refused):
            return
        what = f"the download of {shown} failed: {safe_line(refused, 160)}"
        raise ModelError(what, hint=hint) from refused
    # Without a network some versions of huggingface_hub return a part of a download without a word.
    if not has_weights(source):
        raise ModelError(f"the download of {shown} is not whole: weights are missing", hint=hint)


def has_weights(source: ModelSource) -> bool:
    """Return True when the weights can be checked: in a folder, or whole in the hub's cache.

    A folder counts even where files are missing in it: nothing would bring them.
    """
    if source.revision is None:
        return True
    from huggingface_hub import try_to_load_from_cache

    config = try_to_load_from_cache(source.path, "config.json", revision=source.revision)
    if not isinstance(config, str):
        return False
    snapshot = Path(config).parent
    names = named_files(snapshot)
    return bool(names) and all((snapshot / name).is_file() for name in names)


def _from_folder(folder: Path) -> ModelSource:
    shown = safe_line(folder, 200)
    try:
        names = [path.name for path in folder.iterdir()]
    except OSError as refused:
        raise ModelError(
            f"the model's folder {shown} cannot be read: {safe_line(refused.strerror or refused)}",
            hint="check model.name; it is a hub id or a folder with config.json and safetensors",
        ) from refused
    if "config.json" not in names:
        raise ModelError(
            f"{shown} has no config.json",
            hint="give the folder that holds config.json and the safetensors files; an adapter "
            "alone is no model",
        )
    _check_weights(names, shown)
    return _source(str(folder), None, folder / "config.json")


def _from_hub(name: str, revision: str | None) -> ModelSource:
    from huggingface_hub import hf_hub_download

    if _COMMIT.match(revision or "") and (cached := _cached(name, revision)):
        return cached

    def ask() -> tuple[str, str]:
        commit, names = _ask_hub(name, revision)
        _check_weights(names, safe_line(name, 200))
        return commit, hf_hub_download(name, "config.json", revision=commit, etag_timeout=TIMEOUT_S)

    try:
        commit, config = call_with_timeout(ALL_TRIES_S, ask)
    except ModelError:
        raise
    except Exception as refused:  # the hub's errors, OSError, and those of whichever httpx it uses
        if not _was_refused(refused) and (cached := _cached(name, revision)):
            return cached
        raise _no_model(name, revision, refused) from refused
    return _source(name, commit, Path(config))


def call_with_timeout(limit_s: float, work: Callable[[], Given]) -> Given:
    """Return what `work` returns, or raise what it raises.

    After `limit_s` seconds raises TimeoutError; `work` then continues on a daemon thread of its
    own, because a blocked network call cannot be cancelled.
    """
    done: Queue[tuple[Given | None, Exception | None]] = Queue()

    def run() -> None:
        try:
            done.put((work(), None))
        except Exception as raised:
            done.put((None, raised))

    threading.Thread(target=run, daemon=True).start()
    try:
        given, raised = done.get(timeout=limit_s)
    except Empty:
        raise TimeoutError(f"no whole answer within {limit_s:.0f} s") from None
    if raised is not None:
        raise raised
    return cast(Given, given)


def _ask_hub(name: str, revision: str | None) -> tuple[str, list[str]]:
    from huggingface_hub import HfApi

    about = HfApi().model_info(name, revision=revision, timeout=TIMEOUT_S)
    return str(about.sha), [file.rfilename for file in about.siblings or []]


def _cached(name: str, revision: str | None) -> ModelSource | None:
    """Return the newest copy in this machine's hub cache, or None where its weights are missing."""
    from huggingface_hub import try_to_load_from_cache

    config = try_to_load_from_cache(name, "config.json", revision=revision)
    if not isinstance(config, str):
        return None
    snapshot = Path(config).parent
    if not any(snapshot.glob("*.safetensors")):
        return None
    return _source(name, snapshot.name, Path(config))


def _was_refused(error: Exception) -> bool:
    """Return True when the hub refused the model; a cached copy must then not be used instead."""
    from huggingface_hub import errors

    no = (errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.HFValidationError)
    return isinstance(error, no)


def _no_model(name: str, revision: str | None, error: Exception) -> ModelError:
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    shown = safe_line(name, 200)
    if isinstance(error, GatedRepoError):
        what = f"{shown} is behind a licence that was not accepted on this account"
        hint = f"accept it on huggingface.co/{shown}, then log in here: hf auth login"
    elif isinstance(error, RepositoryNotFoundError | HFValidationError):
        what = f"the hub has no model {shown}, or it is private"
        hint = "check model.name for typing mistakes; for a private one log in: hf auth login"
    elif isinstance(error, RevisionNotFoundError):
        what = f"{shown} has no revision {safe_line(revision, 80)}"
        hint = "leave model.revision out for the newest, or name a branch, tag or full commit"
    elif isinstance(error, EntryNotFoundError) and not isinstance(error, FileNotFoundError):
        what, hint = f"{shown} has no config.json", "pick a model that transformers can load"
    else:
        what = f"the hub cannot be asked about {shown}: {safe_line(error, 160)}"
        hint = (
            "check the network and HF_HUB_OFFLINE, or download the model elsewhere with "
            "`hf download` and give its folder as model.name"
        )
    return ModelError(what, hint=hint)


def _check_weights(names: Iterable[str], shown: str) -> None:
    names = list(names)
    refuse_adapter_beside(names, shown)
    found = [name for name in names if name.endswith(".safetensors")]
    if WEIGHTS in names or INDEX in names:
        return
    if found:
        raise ModelError(
            f"{shown} has {safe_line(found[0], 80)}, and neither {WEIGHTS} nor {INDEX}, the files "
            "that transformers reads",
            hint=f"pick a copy of the model in transformers' format; one whole file may be renamed "
            f"to {WEIGHTS}",
        )
    pickled = [name for name in names if name.endswith(_PICKLED)]
    if pickled:
        raise ModelError(
            f"{shown} holds pickled weights only ({safe_line(pickled[0], 60)}), which can run code",
            hint="pick a model with safetensors, or convert it in a place where you trust it",
        )
    raise ModelError(
        f"{shown} holds no weights",
        hint="its safetensors files are missing; finish the download",
    )


def _source(path: str, revision: str | None, config_file: Path) -> ModelSource:
    try:
        config = without_counts(json.loads(config_file.read_bytes()))
        model_type = config["model_type"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as broken:
        raise ModelError(
            f"config.json of {safe_line(path, 200)} cannot be used: "
            f"{type(broken).__name__}: {safe_line(broken, 120)}",
            hint="it must be a JSON object that names model_type; download the file again",
        ) from broken
    trusted = may_run_its_code(path, revision)
    if not trusted:  # code that the user trusts may know what transformers lacks
        refuse_unloadable(config, path)
    if (kernel := _kernel_in(config)) and not trusted:
        raise ModelError(
            f"config.json of {safe_line(path, 200)} wants code from the hub to be run: "
            f"{safe_line(kernel, 80)}",
            hint="take attn_implementation out of it, in a copy of your own",
        )
    return ModelSource(path=path, revision=revision, config=config, model_type=str(model_type))


def _kernel_in(config: object) -> str:
    """Return the repository from which transformers would load attention or experts code.

    Empty without one. The keys can stand at any depth of the configuration.
    """
    if not isinstance(config, dict):
        return ""
    for key, value in config.items():
        if str(key).strip("_").removesuffix("_internal") in _IMPLEMENTATIONS:
            named = value.values() if isinstance(value, dict) else [value]
            if found := next((str(one) for one in named if "/" in str(one)), ""):
                return found
        elif found := _kernel_in(value):
            return found
    return ""
