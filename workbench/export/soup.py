"""A weighted average of adapters as one adapter, exact or with the error told.

The average of LoRA changes is Σ wᵢ·sᵢ·Bᵢ·Aᵢ. Averages of all A and of all B multiply to something
else. Side by side, [w₁s₁B₁ w₂s₂B₂ …]·[A₁; A₂; …] is exact, with the sum of the ranks as its rank;
a smaller rank is the nearest one by singular values (Eckart and Young, 1936).

    python -m workbench.export.soup OUT ADAPTER... [--weights 1,1] [--rank 16]
"""

from __future__ import annotations

import os
import signal
import sys

if __name__ == "__main__":  # ctrl-c while the imports below run would print a traceback
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))

import argparse
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench import fault_points
from workbench.adapters.adapter_folder import (
    TEMPLATE,
    WEIGHTS,
    AdapterFolder,
    adapter_digest,
    read_adapter,
)
from workbench.adapters.base_names import same_base
from workbench.adapters.lora_settings import CONFIG
from workbench.errors import CheckpointError, UsageError
from workbench.export.child import print_report
from workbench.machine import staging
from workbench.text import safe_line
from workbench.training import libraries

if TYPE_CHECKING:
    import torch

_COPIED = (
    *("tokenizer.json", "tokenizer_config.json", TEMPLATE),
    "generation_config.json",
)
SOURCES = "soup.json"
"""The file of an average that names the adapters in it, their weights and the error."""


def average_adapters(
    out: Path, folders: Sequence[Path], weights: Sequence[float], rank: int | None = None
) -> dict[str, Any]:
    """Write the weighted average to `out`, whole or not at all, and return a report.

    `weights` are divided by their sum. The report holds `rank`, and `relative_error`, the norm of
    what a smaller rank leaves out over that of the whole change: 0 without `rank`. Raises
    CheckpointError for adapters that are not whole, of different bases or on different modules,
    UsageError for weights that do not fit or where `out` exists, WorkbenchError where it cannot be
    written.
    """
    out = out.absolute()
    shares = _shares(folders, weights)
    staging.refuse_existing(out)
    found = [read_adapter(folder) for folder in folders]
    revisions = [_config(folder).get("revision") for folder in folders]
    for other, revision in zip(found[1:], revisions[1:], strict=True):
        _check_alike(found[0], other, revisions[0], revision)
    libraries.import_libraries(threads=None)
    from safetensors.torch import save_file

    tensors, error = _average(found, shares, rank)
    own_rank = rank or sum(one.rank for one in found)
    with staging.new_folder(out) as staged:
        save_file(tensors, staged / WEIGHTS, metadata={"format": "pt"})
        values = {**_config(folders[0]), "r": own_rank, "lora_alpha": own_rank}
        values |= {"rank_pattern": {}, "alpha_pattern": {}, "use_rslora": False}
        (staged / CONFIG).write_text(json.dumps(values, indent=2, sort_keys=True) + "\n")
        for name in _COPIED:
            if (folders[0] / name).is_file():
                shutil.copyfile(folders[0] / name, staged / name)
        parts = [
            {"folder": str(folder), "share": share, "digest": adapter_digest(folder)}
            for folder, share in zip(folders, shares, strict=True)
        ]
        report = {"rank": own_rank, "relative_error": error, "adapters": parts}
        (staged / SOURCES).write_text(json.dumps(report, indent=2) + "\n")
        fault_points.at("soup.before_rename", staged / WEIGHTS)
    return {"folder": str(out), **report}


def _shares(folders: Sequence[Path], weights: Sequence[float]) -> list[float]:
    if len(folders) < 2:
        raise UsageError("an average needs two adapters or more", hint="name another adapter")
    hint = "give one weight for each, none below 0 and not all 0: --weights 2,1"
    if len(weights) != len(folders):
        raise UsageError(f"there are {len(weights)} weights for {len(folders)} adapters", hint=hint)
    if not sum(weights) > 0 or min(weights) < 0:
        raise UsageError(f"{', '.join(map(str, weights))} are no weights", hint=hint)
    return [weight / sum(weights) for weight in weights]


def _config(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / CONFIG).read_bytes())
    return found


def _check_alike(
    first: AdapterFolder, other: AdapterFolder, revision: object, other_revision: object
) -> None:
    """Raise CheckpointError unless both are plain LoRA on the same modules of the same base."""
    shown = safe_line(other.folder, 200)
    for one in (first, other):
        if one.settings.dora or one.settings.lora_bias or one.settings.bias != "none":
            raise CheckpointError(
                f"{safe_line(one.folder, 200)} holds more than low-rank matrices",
                hint="only plain LoRA and rsLoRA can be averaged exactly",
            )
    if not same_base(first.settings.base, other.settings.base) or revision != other_revision:
        raise CheckpointError(
            f"{shown} was trained on another base or commit: "
            f"{safe_line(other.settings.base, 120)}, not {safe_line(first.settings.base, 120)}",
            hint="average adapters of one base",
        )
    if {n: s[:2] for n, s in first.modules.items()} != {n: s[:2] for n, s in other.modules.items()}:
        raise CheckpointError(
            f"{shown} adapts other modules", hint="average adapters with the same lora.targets"
        )


def _average(
    found: Sequence[AdapterFolder], shares: Sequence[float], rank: int | None
) -> tuple[dict[str, torch.Tensor], float]:
    """Return the average's tensors under PEFT's names, and its relative error."""
    import torch

    from workbench.export.changes import read_changes

    changes = [read_changes(one.folder).lora for one in found]
    most = rank or sum(one.rank for one in found)
    tensors: dict[str, torch.Tensor] = {}
    lost = whole = 0.0
    for name in sorted(changes[0]):
        parts = [change[name] for change in changes]
        a = torch.cat([part.a_RI.double() for part in parts])
        b = torch.cat(
            [part.b_OR.double() * (part.scale * s) for part, s in zip(parts, shares, strict=True)],
            dim=1,
        )
        if rank is None:  # zeros fill up modules of a smaller rank: PEFT knows one for all
            room = most - a.shape[0]
            a = torch.nn.functional.pad(a, (0, 0, 0, room))
            b = torch.nn.functional.pad(b, (0, room))
        else:
            a, b, kept, all_of_it = nearest_of_rank(a, b, rank)
            lost, whole = lost + all_of_it - kept, whole + all_of_it
        module = name.removesuffix(".weight")
        tensors[f"base_model.model.{module}.lora_A.weight"] = a.float().contiguous()
        tensors[f"base_model.model.{module}.lora_B.weight"] = b.float().contiguous()
    return tensors, (max(0.0, lost) / whole) ** 0.5 if whole else 0.0


def nearest_of_rank(
    a_RI: torch.Tensor, b_OR: torch.Tensor, rank: int
) -> tuple[torch.Tensor, torch.Tensor, float, float]:
    """Return the factors of the nearest product of this rank, and two squared Frobenius norms.

    These are of what is kept and of the whole product. Costs a decomposition of the sum of the
    ranks, squared, and never the product itself.
    """
    import torch

    left_O, upper = torch.linalg.qr(b_OR)
    right_I, lower = torch.linalg.qr(a_RI.T)
    u, sizes, v = torch.linalg.svd(upper @ lower.T)
    kept = min(rank, len(sizes))
    root = sizes[:kept].sqrt()
    b = left_O @ u[:, :kept] * root
    a = (right_I @ v[:kept].T * root).T
    room = rank - kept
    pad = torch.nn.functional.pad
    square = sizes.square()
    return (
        pad(a, (0, 0, 0, room)),
        pad(b, (0, room)),
        float(square[:kept].sum()),
        float(square.sum()),
    )


def main() -> int:
    """Average as the command line asks, print the report as JSON and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("adapters", type=Path, nargs="+")
    parser.add_argument("--weights")
    parser.add_argument("--rank", type=int)
    given = parser.parse_args()
    words = given.weights.split(",") if given.weights else ["1"] * len(given.adapters)
    return print_report(
        lambda: average_adapters(given.out, given.adapters, read_weights(words), given.rank)
    )


def read_weights(words: Sequence[str]) -> list[float]:
    """Return the weights as numbers; UsageError for a word that is none."""
    try:
        return [float(word) for word in words]
    except ValueError as wrong:
        raise UsageError("--weights holds no numbers", hint="for example: 2,1") from wrong


if __name__ == "__main__":
    sys.exit(main())
