"""Failures are reported in words that a person can act on."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
from safetensors import SafetensorError

from workbench.errors import CheckpointError, DataError, ModelError, RecipeError
from workbench.training.failure import classify, diverged, is_poisoned

CUBLAS_WITHOUT_MEMORY = "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"
"""torch's own words: it puts "CUDA error" before any name of cuBLAS."""


class OutOfMemoryError(RuntimeError):
    """An error with the class name that torch uses."""


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "out_of_memory"),
        (MemoryError(), "out_of_memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "out_of_memory"),
        (RuntimeError(CUBLAS_WITHOUT_MEMORY), "out_of_memory"),
        (RuntimeError("CUDA driver error: out of memory"), "out_of_memory"),
        (OSError(errno.ENOSPC, "No space left on device"), "disk_full"),
        (SafetensorError("I/O error: No space left on device (os error 28)"), "disk_full"),
        (RecipeError("what", hint="hint"), "recipe"),
        (CheckpointError("what", hint="hint"), "recipe"),
        (diverged("was 9 by step 3"), "recipe"),
        (DataError("what", hint="hint"), "data"),
        (ModelError("what", hint="hint"), "model"),
        (KeyError("x"), "bug"),
    ],
)
def test_a_failure_has_a_cause_a_reason_and_a_hint(
    error: Exception, cause: str, tmp_path: Path
) -> None:
    found = classify(error, folder=tmp_path / "not" / "there", predicted_bytes=3 << 30)
    assert found.cause == cause
    assert found.reason
    assert found.hint


def test_out_of_memory_names_what_the_plan_had_predicted(tmp_path: Path) -> None:
    found = classify(OutOfMemoryError(), folder=tmp_path, predicted_bytes=3 << 30)
    assert "3.0 GiB" in found.reason


@pytest.mark.parametrize(
    ("room_bytes", "cause"),
    [(None, "out_of_memory"), (3 << 30, "out_of_memory"), (2_700 << 20, "out_of_memory"),
     (2 << 30, "card_memory"), (0, "card_memory")],
)  # fmt: skip
def test_a_card_that_offers_less_than_was_planned_is_not_the_plans_fault(
    room_bytes: int | None, cause: str, tmp_path: Path
) -> None:
    found = classify(
        OutOfMemoryError(), folder=tmp_path, predicted_bytes=3 << 30, room_bytes=room_bytes
    )
    assert found.cause == cause
    if cause == "card_memory":
        assert f"other programs left {room_bytes / 2**30:.1f} GiB" in found.reason  # type: ignore[operator]


def test_foreign_text_in_a_failure_is_made_harmless(tmp_path: Path) -> None:
    found = classify(ValueError("\x1b[2Jboo\nline"), folder=tmp_path, predicted_bytes=0)
    assert found.reason == "ValueError: boo line"


@pytest.mark.parametrize(
    ("text", "broken"),
    [
        ("CUDA error: an illegal memory access was encountered", True),
        ("CUDA error: device-side assert triggered", True),
        ("CUDA error: uncorrectable ECC error encountered", True),
        ("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`", True),
        ("cuDNN error: CUDNN_STATUS_NOT_INITIALIZED", True),
        ("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR", True),
        ("CUDA error: out of memory", False),
        ("CUDA error: operation failed due to a previous error during capture", False),
        (CUBLAS_WITHOUT_MEMORY, False),
        ("CUDA driver error: out of memory", False),
        ("CUDA driver error: device not ready", True),
        ("shapes cannot be multiplied", False),
    ],
)
def test_a_broken_context_is_distinguished_from_other_errors(text: str, broken: bool) -> None:
    assert is_poisoned(RuntimeError(text)) is broken


def test_a_broken_context_is_found_behind_another_error() -> None:
    error = ModelError("the model cannot be loaded")
    error.__cause__ = RuntimeError("CUDA error: an illegal memory access was encountered")
    assert is_poisoned(error)


def test_out_of_memory_is_found_behind_a_failed_capture(tmp_path: Path) -> None:
    error = RuntimeError("CUDA error: operation failed due to a previous error during capture")
    error.__context__ = OutOfMemoryError("CUDA out of memory")
    assert classify(error, folder=tmp_path, predicted_bytes=1).cause == "out_of_memory"
