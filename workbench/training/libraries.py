"""The heavy libraries: loaded on the training thread, kept quiet, their versions known.

Importing this module loads none of them.
"""

from __future__ import annotations

import gc
import logging
import os
import re
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata

from workbench.text import safe_line
from workbench.training.control import Emit

NAMES = ("torch", "transformers", "trl", "peft", "bitsandbytes", "accelerate")
"""Those whose change can change a result; a checkpoint resumes only under the same ones."""

SPOKEN = ("transformers", "trl", "peft", "accelerate", "bitsandbytes", "datasets", "py.warnings")
"""Loggers whose warnings reach the person, as `log` events."""

ENVIRONMENT = {
    "HF_HUB_DISABLE_TELEMETRY": "1",  # TRL sends some
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TOKENIZERS_PARALLELISM": "false",  # no threads beside the training thread
    "BITSANDBYTES_NOWELCOME": "1",
    "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True",  # freed memory of any size serves again
}

_DROPPED = (
    "gemm_4bit_forward",  # a notice about an optional kernel package, harmless
    "The tokenizer has new PAD/BOS/EOS tokens",  # the pad token, aligned on purpose
)

FORCED = (
    "`is_gradient_checkpointing` is deprecated",  # PEFT 0.21 reads it of transformers 5
    "Paged optimizers are not supported on CPU",  # the same updates, not paged
)
"""Beginnings of Python warnings that these libraries force on each other and nobody can mend."""


def hush() -> None:
    """Nothing of theirs on stderr by itself, and FORCED ignored. Call it before they are imported;

    repeating it is harmless.
    """
    for name in SPOKEN:  # without a handler of their own, warnings would go to stderr
        logging.getLogger(name).addHandler(logging.NullHandler())
    for text in FORCED:
        warnings.filterwarnings("ignore", message=re.escape(text))


def versions() -> dict[str, str]:
    """Installed version of each of NAMES, without importing it."""
    return {name: metadata.version(name) for name in NAMES}


def warm(*, threads: int | None) -> None:
    """Import everything a trial needs (4 to 20 s the first time), progress bars off."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    hush()
    logging.captureWarnings(True)
    import torch

    if threads is not None:
        torch.set_num_threads(threads)
    from datasets.utils.logging import disable_progress_bar
    from transformers.utils import logging as spoken

    disable_progress_bar()
    spoken.disable_progress_bar()
    spoken.disable_default_handler()
    import bitsandbytes  # noqa: F401
    import peft  # noqa: F401
    import trl  # noqa: F401

    if gc.get_freeze_count() == 0:  # a collection then skips the libraries: 15 ms, not 240
        gc.collect()
        gc.freeze()


class _ToEvents(logging.Handler):
    """Each distinct warning once, made harmless, as a `log` event; from one thread only."""

    def __init__(self, emit: Emit) -> None:
        super().__init__(level=logging.WARNING)
        self._emit = emit
        self._thread = threading.get_ident()
        self._said: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        if record.thread != self._thread:
            return
        text = record.getMessage()
        if record.name == "py.warnings":  # path:line: Category: text, then the line of code
            text = text.partition("Warning: ")[2].partition("\n")[0] or text
        text = safe_line(text)
        if text in self._said or any(word in text for word in _DROPPED):
            return
        self._said.add(text)
        self._emit("log", level=record.levelname.lower(), text=text)


@contextmanager
def warnings_as_events(emit: Emit) -> Iterator[None]:
    """While open, what the libraries warn of on this thread becomes `log` events."""
    handler = _ToEvents(emit)
    loggers = [logging.getLogger(name) for name in SPOKEN]
    hush()
    for logger in loggers:
        logger.addHandler(handler)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeHandler(handler)
