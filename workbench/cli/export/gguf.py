"""`workbench gguf`: a GGUF file of a merged model, or of an adapter alone."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer

from workbench import formatting
from workbench.cli.arguments import Json
from workbench.cli.child import ask_for_report
from workbench.cli.export.after import describe_after, score_again
from workbench.cli.export.merge import (
    MODULE,
    ChosenAdapter,
    chosen_adapter,
    describe_check,
    describe_scores,
    keep_report,
)
from workbench.cli.tables import as_json, print_answer, print_note
from workbench.errors import UsageError, WorkbenchError
from workbench.machine import staging
from workbench.machine.files import sync_path, write_durably
from workbench.text import safe_line, shell_word

WRITER = "workbench.export.gguf.write"
OWN_TYPES = ("f16", "bf16", "f32", "q8_0")
TOOL = "llama-quantize"
_PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\Z")


def gguf_command(
    source: Annotated[
        str, typer.Argument(metavar="TRIAL|FOLDER", help="A trial, an adapter or a merged model.")
    ],
    target: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="Where it goes.")],
    kind: Annotated[
        str,
        typer.Option(
            "--type", "-t", help="f16, bf16, f32, q8_0; others by llama-quantize on the PATH."
        ),
    ] = "f16",
    lora: Annotated[bool, typer.Option("--lora", help="The adapter alone, unmerged.")] = False,
    ollama: Annotated[
        bool, typer.Option("--ollama", help="Write a Modelfile for `ollama create` beside it.")
    ] = False,
    base: Annotated[
        str | None, typer.Option("--base", metavar="PATH", help="Another place of the base model.")
    ] = None,
    score: Annotated[
        bool | None,
        typer.Option(
            "--score/--no-score",
            help="Score it on all held-out rows by llama.cpp (llama-cpp-python), else as merged; "
            "by default where the file is below 4 GiB.",
        ),
    ] = None,
    as_data: Json = False,
) -> None:
    """Write a GGUF file for llama.cpp and Ollama, and read it back tensor by tensor."""
    kind, target = kind.lower(), target.absolute()
    _check_type(kind, lora)
    modelfile = target.with_name("Modelfile")
    more = ["--ollama"] if ollama else []
    chosen = None if _is_model(Path(source)) else chosen_adapter(source)
    with staging.writing(target), staging.alone(target):
        _check_targets(target, modelfile, lora, ollama)
        if chosen is None:
            report = _write(Path(source), target, kind, *more)
        elif lora:
            place = [] if base is None else ["--base", base]
            report = _child(WRITER, chosen.folder, target, "--type", kind, "--lora", *place)
        else:
            report = _merged_and_written(chosen, target, kind, base, score, *more)
        if ollama:
            report["modelfile"] = f"FROM ./{target.name}\n{report['modelfile']}"
            write_durably(modelfile, report["modelfile"].encode())
    if chosen is not None:
        report["scores"] = chosen.own.values
        keep_report(chosen, "gguf-lora" if lora else "gguf", target, report)
    if as_data:
        as_json(report)
        return
    size = formatting.size(report["bytes"])
    print_answer(f"{safe_line(target)}: {report['tensors']} tensors, {kind}, {size}")
    if ollama:
        name = re.sub(r"[^a-z0-9._-]", "-", target.stem.lower())
        print_answer(f"  {'ollama':<12}ollama create {name} -f {shell_word(modelfile)}")
    print_answer(f"  {'read back':<12}off by {report['max_difference']:.3g} at most")
    if chosen is not None and "checked_on" in report:
        print_answer(f"  {'merge':<12}{describe_check(report)}")
        for line in [*describe_scores(report), *describe_after(chosen.own, report["after"])]:
            print_answer(f"  {'score':<12}{line}")
        if report["after"].get("by") != "llama.cpp":
            print_answer(f"  {'':<12}scored as merged, before it was written as {kind}")


def _check_targets(target: Path, modelfile: Path, lora: bool, ollama: bool) -> None:
    """Raise UsageError for files that exist, and for a Modelfile that could not be complete."""
    for path in (target, modelfile) if ollama else (target,):
        if os.path.lexists(path):  # a link that leads nowhere would be replaced, too
            raise UsageError(
                f"{safe_line(path)} exists already", hint="name another file or folder"
            )
    if lora and ollama:
        raise UsageError(
            "--ollama needs the whole model, not the adapter alone", hint="leave out --lora"
        )
    if ollama and not _PLAIN_NAME.match(target.name):
        raise UsageError(
            f"{safe_line(target.name, 80)} cannot stand in a Modelfile",
            hint="name the file with letters, digits, dots, dashes and underscores",
        )


def _check_type(kind: str, lora: bool) -> None:
    """Raise UsageError for a type that neither we nor a tool on the PATH can write."""
    if kind in OWN_TYPES and not (lora and kind not in ("f16", "f32")):
        return
    if lora:
        raise UsageError(f"an adapter is not written in {kind}", hint="take f16 or f32")
    if not kind.replace("_", "").isalnum() or shutil.which(TOOL) is None:
        raise UsageError(
            f"{safe_line(kind, 40)} is written by {TOOL}, which is not on the PATH",
            hint=f"install llama.cpp, or take one of {', '.join(OWN_TYPES)}",
        )


def _is_model(folder: Path) -> bool:
    return (folder / "config.json").is_file() and not (folder / "adapter_config.json").exists()


def _merged_and_written(
    chosen: ChosenAdapter,
    target: Path,
    kind: str,
    base: str | None,
    score: bool | None,
    *writing: str,
) -> dict[str, Any]:
    """Merge beside the target, write the file, score it, and remove the merged model again.

    Without llama.cpp's Python package the merged model is scored.
    """
    merged = target.with_name(f".{target.name}.merged")
    shutil.rmtree(merged, ignore_errors=True)  # of a command that was killed
    print_note(f"merging {safe_line(chosen.folder)}")
    more = [] if base is None else ["--base", base]
    more += [] if chosen.own.rows is None else ["--rows", str(chosen.own.rows)]
    try:
        report = _child(MODULE, chosen.folder, merged, *more)
        report |= _write(merged, target, kind, *writing)
        scored = merged if find_spec("llama_cpp") is None else target
        ends = report["eos_token_id"]
        return {**report, "after": score_again(chosen.own, scored, ends, score, merged)}
    finally:
        shutil.rmtree(merged, ignore_errors=True)


def _write(model: Path, target: Path, kind: str, *more: str) -> dict[str, Any]:
    """Write the file of a merged model; types that are not ours by llama.cpp's tool from f16."""
    if kind in OWN_TYPES:
        return _child(WRITER, model, target, "--type", kind, *more)
    whole = target.with_name(f".{target.name}.f16")
    partial = target.with_name(f".{target.name}.partial")
    whole.unlink(missing_ok=True)
    try:
        report = _child(WRITER, model, whole, "--type", "f16", *more)
        print_note(f"{TOOL}: {kind}")
        command = [TOOL, str(whole), str(partial), kind.upper()]
        ended = subprocess.run(command, check=False, capture_output=True, text=True)
        if ended.returncode:
            raise WorkbenchError(
                f"{TOOL} failed: {safe_line(ended.stderr[-300:], 300)}",
                hint="run it by hand on a file of --type f16",
            )
        sync_path(partial)
        partial.rename(target)
        sync_path(target.parent)
        size = target.stat().st_size
        return {**report, "file": str(target), "type": kind, "bytes": size}
    finally:
        for left in (whole, partial):
            left.unlink(missing_ok=True)


def _child(module: str, source: Path, target: Path, *more: str) -> dict[str, Any]:
    """Run a module of `workbench.export` and return its report; leave with its exit code."""
    return ask_for_report(module, str(source), str(target), *more)
