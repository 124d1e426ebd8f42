"""Judge the answers of the child processes about libraries, the driver and each card.

An answer is a JSON object; `problem` in it says why there is no other content.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from workbench import formatting
from workbench.doctor.check import Check
from workbench.footprint import precision_for
from workbench.machine.attention import attention_for
from workbench.machine.sampler import CardReading, MachineReading

GIB = 1 << 30
OLDEST_SQLITE = (3, 37)
"""Strict tables: sqlite.org/stricttables.html."""


def check_sqlite(answer: Mapping[str, Any]) -> Check:
    """Check that SQLite has strict tables, which the database uses."""
    name = "sqlite"
    hint = "use a Python whose sqlite3 is 3.37 or newer"
    if problem := answer.get("problem"):
        return Check(name=name, status="fail", finding=str(problem), hint=hint)
    version = str(answer["version"])
    old = tuple(int(part) for part in version.split(".")[:2]) < OLDEST_SQLITE
    return Check(
        name=name, status="fail" if old else "ok", finding=version, hint=hint if old else ""
    )


def check_ray(answer: Mapping[str, Any]) -> Check:
    """Check that ray can be imported."""
    if answer.get("problem"):
        return _library("ray", answer)
    return Check(name="ray", status="ok", finding=str(answer["version"]))


def check_bitsandbytes(answer: Mapping[str, Any]) -> Check:
    """Check that bitsandbytes quantises to NF4 and back with the error that NF4 has."""
    name = "bitsandbytes"
    if answer.get("problem"):
        return _library(name, answer)
    finding = f"{answer['version']}, NF4 works on {answer['device']}"
    if not float(answer["error"]) < 0.1:  # the mean error of NF4 for values in [-1, 1] is 0.03
        finding = f"{answer['version']}: NF4 on {answer['device']} gives wrong numbers"
        hint = "reinstall the build for your CUDA: pip install --force-reinstall bitsandbytes"
        return Check(name=name, status="fail", finding=finding, hint=hint)
    return Check(name=name, status="ok", finding=finding)


def check_driver(sample: MachineReading) -> Check:
    """Check that NVIDIA's driver answers; a machine without one is a warning."""
    name = "driver"
    if sample.problem:
        hint = "reboot if the driver was just upgraded; else see dmesg and `nvidia-smi`"
        if "WORKBENCH_CARDS" in sample.problem or "CUDA_VISIBLE_DEVICES" in sample.problem:
            hint = "correct or unset the variable"
        return Check(name=name, status="fail", finding=sample.problem, hint=hint)
    if not sample.driver:
        finding = "no NVIDIA driver; trials run on CPU cards, slowly"
        return Check(name=name, status="warn", finding=finding, hint="fine for the demo")
    return Check(name=name, status="ok", finding=f"NVIDIA {sample.driver}")


def check_torch(answer: Mapping[str, Any], sample: MachineReading) -> Check:
    """Check that torch can be imported, and that it reaches the GPUs that the driver reports."""
    name = "torch"
    if answer.get("problem"):
        return _library(name, answer)
    finding = f"{answer['version']}, {'CUDA ' + answer['cuda'] if answer['cuda'] else 'CPU build'}"
    gpus = [card for card in sample.cards if card.card.kind == "cuda"]
    # The default wheel on some platforms has no CUDA, and torch itself reports no problem.
    if gpus and not answer["cuda"]:
        hint = "install the CUDA build: pip install --force-reinstall 'torch>=2.11,<2.14'"
        finding += f", but there is a {gpus[0].card.name}"
        return Check(name=name, status="fail", finding=finding, hint=hint)
    if gpus and not answer["available"]:
        hint = "compare its CUDA with the driver's in `nvidia-smi`; a driver also runs older CUDA"
        finding += ", which cannot reach the GPU"
        return Check(name=name, status="fail", finding=finding, hint=hint)
    return Check(name=name, status="ok", finding=finding)


def check_card(sample: CardReading, torch: Mapping[str, Any]) -> Check:
    """Check that the card works and that the installed torch has code for it.

    The finding lists name, bytes, compute capability, the values that the guards can use, precision
    and attention with its reason.
    """
    card = sample.card
    name = f"card {card.uuid[:12]}"
    facts = f"{card.name}, {sample.free_bytes / GIB:.1f} of {card.total_bytes / GIB:.1f} GiB free"
    if card.cap_bytes:
        facts += f", capped at {card.cap_bytes / GIB:.1f}"
    if not sample.ok:
        finding = f"{facts}: {sample.problem}"
        return Check(name=name, status="fail", finding=finding, hint="reboot, check its power")
    if card.capability:
        facts += f", compute capability {card.capability[0]}.{card.capability[1]}"
    arches = [str(arch) for arch in torch.get("arches") or ()]
    if card.capability and arches and not build_supports(card.capability, arches):
        finding = f"{facts}; torch {torch['version']} has no code for it ({' '.join(arches)})"
        hint = "install torch for an older CUDA, e.g. from the cu126 index, with sm_50 to sm_90"
        return Check(name=name, status="fail", finding=finding, hint=hint)
    facts += "".join(f", {told}" for told in _watched(sample))
    attention, why = attention_for(card, "auto")
    finding = f"{facts}; {precision_for(card, 'auto')}, {attention}: {why}"
    return Check(name=name, status="ok", finding=finding)


def _watched(sample: CardReading) -> Iterator[str]:
    """Generate the values that the guards can use on this card: heat, energy, Xid errors, others'
    processes."""
    if sample.card.kind != "cuda":
        return
    yield formatting.temperature(sample.temperature_c) if sample.temperature_c else "no temperature"
    counted = sample.energy_j is not None
    by_power = "energy by its power" if sample.power_w is not None else "no energy"
    yield "energy by its counter" if counted else by_power
    yield "Xid errors reported" if sample.xid_watch else "no Xid errors reported"
    for one in sample.processes:
        if not one.draws:
            yield f"pid {one.pid} ({one.name or 'unknown'}) computes on it"


def build_supports(capability: tuple[int, int], arches: list[str]) -> bool:
    """Return True if a torch build for `arches` (sm_80, sm_90a, compute_90) runs on `capability`.

    Machine code runs on its own major version from its minor version up, PTX (compute_…) on every
    later version. A suffix `a` or `f` restricts code to exactly that version (CUDA C++ programming
    guide, §compute capabilities).
    """
    major, minor = capability
    for arch in arches:
        kind, _, number = arch.partition("_")
        digits = number.rstrip("af")
        # Names of later toolkits may be unlike today's; skip what cannot be parsed.
        if len(digits) < 2 or not digits.isdigit():
            continue
        built = (int(digits[:-1]), int(digits[-1]))
        if digits != number:
            fits = built == capability
        elif kind == "compute":
            fits = built <= capability
        else:
            fits = built[0] == major and built[1] <= minor
        if fits:
            return True
    return False


def _library(name: str, answer: Mapping[str, Any]) -> Check:
    if answer.get("slow"):
        hint = "try again when the machine is less busy: the first import is slow as well"
        return Check(name=name, status="warn", finding=str(answer["problem"]), hint=hint)
    hint = "reinstall the workbench: pip install --force-reinstall qlora-workbench"
    return Check(name=name, status="fail", finding=str(answer["problem"]), hint=hint)


def reading_from(answer: dict[str, Any]) -> MachineReading:
    """Return the reading that the sampler printed, or one with the probe's problem."""
    if "cards" not in answer:
        return MachineReading(at_utc=0.0, cards=(), problem=str(answer.get("problem", "no answer")))
    return MachineReading.from_json(answer)
