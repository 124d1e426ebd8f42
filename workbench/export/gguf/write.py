"""A GGUF file of a merged model's folder, or of an adapter alone, written and read back.

python -m workbench.export.gguf.write FOLDER FILE [--type f16] [--lora | --ollama]
"""

from __future__ import annotations

import os
import signal
import sys

if __name__ == "__main__":  # ctrl-c while the imports below run would print a traceback
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))

import argparse
from pathlib import Path
from typing import Any

from workbench import fault_points
from workbench.errors import ModelError, UsageError
from workbench.export.child import print_report
from workbench.machine import staging
from workbench.machine.files import sync_path
from workbench.text import safe_line
from workbench.training import libraries

TYPES = ("f16", "bf16", "f32", "q8_0")


def write_gguf(
    folder: Path,
    out: Path,
    kind: str,
    *,
    lora: bool = False,
    ollama: bool = False,
    base: str | None = None,
) -> dict[str, Any]:
    """Write the file, whole or not at all, read it back, and return a report.

    The report holds `file`, `type`, `bytes`, `tensors` and `max_difference`, the largest difference
    between a tensor in the file and the same in the file's own number format; with `ollama` also
    `modelfile`, the Modelfile without its FROM line. Raises ModelError for a model, adapter or chat
    template that cannot be expressed, UsageError where `out` exists, WorkbenchError where it cannot
    be written.
    """
    if os.path.lexists(out):
        raise UsageError(f"{safe_line(out)} exists already", hint="name another file")
    _need_gguf()
    libraries.import_libraries(threads=None)
    partial = out.with_name(f".{out.name}.partial")
    try:
        with staging.writing(out):
            out.parent.mkdir(parents=True, exist_ok=True)
            if lora:
                from workbench.export.gguf.lora import write_lora

                report = write_lora(folder, partial, kind, base)
            else:
                body = _modelfile(folder) if ollama else {}  # first: it may be refused, in a second
                report = {**_write_model(folder, partial, kind), **body}
            fault_points.at("gguf.before_rename", partial)
            partial.rename(out)
            sync_path(out.parent)
    finally:
        partial.unlink(missing_ok=True)
    return {"file": str(out), "type": kind, "bytes": out.stat().st_size, **report}


def _need_gguf() -> None:
    try:
        import gguf  # noqa: F401
    except ImportError as missing:
        raise ModelError(
            "the gguf package is not installed", hint="pip install 'qlora-workbench[gguf]'"
        ) from missing


def _write_model(folder: Path, partial: Path, kind: str) -> dict[str, Any]:
    import gguf
    import torch

    from workbench.export.base_files import BaseFiles
    from workbench.export.gguf.families import (
        family_of,
        rope_factors,
        stored_weight,
        write_settings,
    )
    from workbench.export.gguf.read_back import compare_tensors
    from workbench.export.gguf.vocabulary import write_vocabulary
    from workbench.training.model.portable import end_ids_of
    from workbench.training.model.tokenizer import load_tokenizer
    from workbench.training.model.weights import check_weights, read_config

    check_weights(str(folder), None, attention="eager")
    config = read_config(str(folder), None).get_text_config()
    family = family_of(config)
    files = BaseFiles(folder)
    arch = gguf.MODEL_ARCH[family.arch.upper()]
    names = gguf.get_tensor_name_map(arch, config.num_hidden_layers)
    writer = gguf.GGUFWriter(partial, family.arch)
    writer.add_name(folder.name)
    writer.add_type(gguf.GGUFType.MODEL)
    write_settings(writer, family, config, int(config.vocab_size))
    writer.add_file_type(_file_type(kind))
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    write_vocabulary(
        writer,
        load_tokenizer(str(folder), None),
        int(config.vocab_size),
        end_ids_of(folder),
    )
    sources: dict[str, torch.Tensor] = {}
    for name in files.names:
        target = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if target is None:
            raise ModelError(
                f"{safe_line(name, 120)} has no place in GGUF's {family.arch}",
                hint="convert the merged folder with llama.cpp's convert_hf_to_gguf.py",
            )
        sources[target] = stored_weight(family, config, name, files.read(name))
    if (factors := rope_factors(config)) is not None:
        sources["rope_freqs.weight"] = torch.from_numpy(factors)
    for target, weight in sources.items():
        _add(writer, target, weight, kind)
    _finish(writer)
    return compare_tensors(partial, sources)


def _modelfile(folder: Path) -> dict[str, str]:
    from workbench.export.gguf.modelfile import modelfile_body
    from workbench.training.model.portable import end_ids_of
    from workbench.training.model.tokenizer import load_tokenizer

    return {"modelfile": modelfile_body(load_tokenizer(str(folder), None), end_ids_of(folder))}


def _add(writer: Any, name: str, weight: Any, kind: str) -> None:
    from workbench.export.gguf.packing import packed

    data, stored = packed(weight, kind)
    writer.add_tensor(name, data, raw_dtype=stored)


def _file_type(kind: str) -> Any:
    import gguf

    words = {"f16": "MOSTLY_F16", "bf16": "MOSTLY_BF16", "f32": "ALL_F32", "q8_0": "MOSTLY_Q8_0"}
    return gguf.LlamaFileType[words[kind]]


def _finish(writer: Any) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main() -> int:
    """Write as the command line asks, print the report as JSON and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--type", choices=TYPES, default="f16")
    parser.add_argument("--lora", action="store_true")
    parser.add_argument("--ollama", action="store_true")
    parser.add_argument("--base", help="another place of the base, with --lora")
    given = parser.parse_args()
    return print_report(
        lambda: write_gguf(
            given.folder,
            given.out,
            given.type,
            lora=given.lora,
            ollama=given.ollama,
            base=given.base,
        )
    )


if __name__ == "__main__":
    sys.exit(main())
