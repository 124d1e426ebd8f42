"""The heavy libraries: their import on the training thread, their warnings, their versions.

Importing this module loads none of them.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import logging
import os
import re
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from importlib import metadata
from typing import Any

from workbench.fleet.kernel_cache import use_kernel_cache
from workbench.home import find_home
from workbench.text import safe_line
from workbench.training.control import Emit
from workbench.user_config import hide_hub_kernels

NAMES = ("torch", "transformers", "trl", "peft", "bitsandbytes", "accelerate")
"""Libraries whose change can change a result; a checkpoint resumes only under the same versions."""

WARNING_LOGGERS = (
    "transformers",
    "trl",
    "peft",
    "accelerate",
    "bitsandbytes",
    "datasets",
    "py.warnings",
)
"""Loggers whose warnings reach the person as `log` events."""

ENVIRONMENT = {
    "HF_HUB_DISABLE_TELEMETRY": "1",  # TRL sends some
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TOKENIZERS_PARALLELISM": "false",  # no threads beside the training thread
    "BITSANDBYTES_NOWELCOME": "1",
    "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True",  # freed memory of any size is reused
}
"""Environment variables that must be set before these libraries are imported."""

AHEAD = (
    "torch",
    "torch._dynamo",
    "triton",
    "numpy",
    "pandas",
    "scipy.optimize",
    "scipy.stats",
    "datasets",
    "accelerate",
    "transformers.modeling_utils",
    "transformers.generation",
    "workbench.recipe.schema",
    "workbench.footprint.planner",
)
"""Modules that a worker imports and that leave CUDA alone. bitsandbytes asks every card for its
capability when it is imported, which fixes the cards that the process sees; peft imports it."""

_DROPPED = (
    "gemm_4bit_forward",  # a notice about an optional kernel package, harmless
    "The tokenizer has new PAD/BOS/EOS tokens",  # the pad token, aligned on purpose
)
"""Parts of warnings that would only confuse the person."""

CUDA_NOT_INITIALISED = 3
"""CUDA_ERROR_NOT_INITIALIZED, which the driver's functions return before cuInit."""

UNAVOIDABLE = (
    "`is_gradient_checkpointing` is deprecated",  # PEFT 0.21 reads it of transformers 5
    "Paged optimizers are not supported on CPU",  # the same updates, not paged
)
"""Beginnings of Python warnings that one of these libraries causes in another; no setting of ours
avoids them."""


def silence_loggers() -> None:
    """Keep the libraries' warnings off stderr, and ignore those of UNAVOIDABLE.

    Call it before the libraries are imported; a second call is harmless.
    """
    for name in WARNING_LOGGERS:  # a logger without any handler writes its warnings to stderr
        logging.getLogger(name).addHandler(logging.NullHandler())
    for text in UNAVOIDABLE:
        warnings.filterwarnings("ignore", message=re.escape(text))


def versions() -> dict[str, str]:
    """Return the installed version of each library of NAMES, without importing it."""
    return dict(_versions())


@cache
def _versions() -> dict[str, str]:
    """Read the versions once: a process keeps what it imported when a library is updated."""
    return {name: metadata.version(name) for name in NAMES}


def import_libraries(*, threads: int | None) -> None:
    """Import everything a trial needs and turn progress bars off; 4 to 20 s the first time.

    `threads` limits torch's CPU threads (None: torch's default).
    """
    _set_environment()
    silence_loggers()
    logging.captureWarnings(True)
    _import_once()
    import torch

    if threads is not None:
        torch.set_num_threads(threads)
    from datasets.utils.logging import disable_progress_bar
    from transformers.utils import logging as transformers_logging

    disable_progress_bar()
    transformers_logging.disable_progress_bar()
    transformers_logging.disable_default_handler()


def _set_environment() -> None:
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    use_kernel_cache(find_home())
    hide_hub_kernels()


def import_ahead() -> str:
    """Import AHEAD, most of what a trial needs, and return why CUDA was initialised nevertheless.

    An empty string means that CUDA_VISIBLE_DEVICES may still be changed. Modules that are not
    installed are left out.
    """
    _set_environment()
    silence_loggers()
    with without_collections():
        for name in AHEAD:
            with suppress(ImportError):
                importlib.import_module(name)
    return "CUDA was initialised by an import" if cuda_is_initialised() else ""


def cuda_is_initialised() -> bool:
    """Return True where this process has initialised the CUDA driver, by torch or by anything."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return int(driver.cuDeviceGetCount(ctypes.byref(ctypes.c_int()))) != CUDA_NOT_INITIALISED


@cache
def _import_once() -> None:
    with without_collections(), without_compiler():
        import bitsandbytes  # noqa: F401
        import datasets  # noqa: F401
        import peft  # noqa: F401
        import trl  # noqa: F401


@contextmanager
def without_collections() -> Iterator[None]:
    """Run imports without garbage collection, and leave what is there out of later collections.

    Collections take a fifth of the imports' time. Of those that follow, each takes 15 ms instead
    of 240.
    """
    gc.disable()
    try:
        yield
        gc.collect()
        gc.freeze()
    finally:
        gc.enable()


@contextmanager
def without_compiler() -> Iterator[None]:
    """Let `torch.compile` return every function as it is, meanwhile.

    bitsandbytes hands it four functions when it is imported, fallbacks for devices on which it has
    no kernels. The compiler would be imported with them: 1.1 s and 40 MB of memory.
    """
    import torch

    def as_it_is(function: Any = None, **_settings: Any) -> Any:
        return as_it_is if function is None else function

    compiled = torch.compile
    torch.compile = as_it_is  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.compile = compiled


class _ToEvents(logging.Handler):
    """A handler that emits each distinct warning of its own thread once, as a `log` event."""

    def __init__(self, emit: Emit) -> None:
        super().__init__(level=logging.WARNING)
        self._emit = emit
        self._thread = threading.get_ident()
        self._emitted: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        if record.thread != self._thread:
            return
        text = record.getMessage()
        if record.name == "py.warnings":  # path:line: Category: text, then the line of code
            text = text.partition("Warning: ")[2].partition("\n")[0] or text
        text = safe_line(text)
        if text in self._emitted or any(word in text for word in _DROPPED):
            return
        self._emitted.add(text)
        self._emit("log", level=record.levelname.lower(), text=text)


@contextmanager
def warnings_as_events(emit: Emit) -> Iterator[None]:
    """Turn the libraries' warnings on this thread into `log` events while the block runs."""
    handler = _ToEvents(emit)
    loggers = [logging.getLogger(name) for name in WARNING_LOGGERS]
    silence_loggers()
    for logger in loggers:
        logger.addHandler(handler)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeHandler(handler)
