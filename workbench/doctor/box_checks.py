"""Judge the machines of a cluster: one that may join, and each box that has joined."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from workbench import formatting
from workbench.cluster.ray_commands import ALL_PORTS
from workbench.cluster.versions import (
    ALWAYS_EQUAL,
    differing_packages,
    installed_versions,
    version_differences,
)
from workbench.doctor.check import Check

_FIREWALL = f"open ports {ALL_PORTS[0]}-{ALL_PORTS[1]} between the two machines"
_NO_CARDS = (
    "is the driver installed there, and is CUDA_VISIBLE_DEVICES set? workbench doctor says more"
)
_CLOCK = "set the clock there: timedatectl set-ntp true"


def check_candidate(
    facts: dict[str, Any], head: str, skew_s: float, *, answers: bool, allow_skew: bool
) -> Iterator[Check]:
    """Generate the checks of a machine that may join the cluster of `head`.

    `answers` says whether its port was reached from here.
    """
    yield from _check_versions(facts, allow_skew=allow_skew)
    for own in facts["checks"]:
        if not (own["name"] == "packages" and own["status"] == "ok"):
            yield Check(**own)
    cards = ", ".join(facts["cards"])
    yield Check(
        name="cards", status="ok" if cards else "fail", finding=cards or "none", hint=_NO_CARDS
    )
    yield _check_clock("clock", skew_s)
    if facts["head_port"] is None:
        finding = f"it does not reach this head at {head}"
        yield Check(name="box → head", status="fail", finding=finding, hint=_FIREWALL)
    else:
        yield Check(name="box → head", status="ok", finding=f"{head}:{facts['head_port']} answers")
    if not answers:
        finding = f"{facts['address'] or 'it'} is not reached from here"
        yield Check(name="head → box", status="fail", finding=finding, hint=_FIREWALL)
    else:
        yield Check(name="head → box", status="ok", finding=f"{facts['address']} answers")


def _check_versions(facts: dict[str, Any], *, allow_skew: bool) -> Iterator[Check]:
    here, there = installed_versions(), facts["versions"]
    if python := version_differences(here, there, ("python",)):
        hint = f"make the environment there with Python {here['python']}"
        yield Check(name="python", status="fail", finding=python, hint=hint)
    else:
        yield Check(name="python", status="ok", finding=f"{there['python']}, as here")
    differ = [name for name in differing_packages(here, there) if name != "python"]
    if not differ:
        yield Check(name="versions", status="ok", finding="all packages as here")
        return
    finding = version_differences(here, there, differ)
    bearable = allow_skew and not set(differ) & set(ALWAYS_EQUAL)
    wanted = " ".join(f"{name}=={here[name]}" for name in differ if here[name] != "none")
    hint = f"there: {facts['python_file']} -m pip install {wanted}"
    if bearable:
        hint = f"allowed by --allow-skew; to make them equal, {hint}"
    yield Check(name="versions", status="warn" if bearable else "fail", finding=finding, hint=hint)


def check_box(one: dict[str, Any]) -> Iterator[Check]:
    """Generate the checks of a box, as the loop describes it for `cluster ls`."""
    name = str(one["box"])
    if one["state"] == "lost":
        hint = "is it on? There: workbench cluster doctor"
        yield Check(name=name, status="fail", finding="is not connected", hint=hint)
        return
    where = f"{one['address']}, {one['state']}, {one.get('cards', 0)} cards"
    if problem := one.get("problem"):
        yield Check(name=name, status="fail", finding=f"{where}: {problem}", hint=_hint(problem))
    else:
        yield Check(name=name, status="ok", finding=where)
    if "free_bytes" not in one:  # a namesake, which is not used at all
        return
    if one["skewed"]:
        hint = f"losses there may differ; workbench cluster allow-skew {name} --undo"
        yield Check(name=f"{name} versions", status="warn", finding=one["skewed"], hint=hint)
    yield _check_clock(f"{name} clock", one["skew_s"])
    yield _check_free(f"{name} disk", one["free_bytes"])
    yield check_mode(f"{name} token", one["token_mode"])
    yield _check_ports(name, one["closed_on_head"], one["closed_on_box"])


def _hint(problem: str) -> str:
    """Return the next step for why a box takes no trial."""
    if "on the head" in problem:
        return "install the same versions there, or: workbench cluster allow-skew BOX"
    if "another box has this name" in problem:
        return "there: workbench cluster leave, then join with --name"
    if "disk" in problem:
        return "free space there"
    return "see logs/node.log and logs/keeper.log in the home of that machine"


def _check_clock(name: str, skew_s: float) -> Check:
    if abs(skew_s) < formatting.SKEW_S:
        return Check(name=name, status="ok", finding="agrees with this machine's")
    ahead = "ahead of" if skew_s > 0 else "behind"
    finding = f"{abs(skew_s):.1f} s {ahead} this machine's"
    return Check(name=name, status="warn", finding=finding, hint=_CLOCK)


def _check_free(name: str, free_bytes: int | None) -> Check:
    from workbench.doctor.machine import LITTLE_DISK_BYTES, LOW_DISK_BYTES

    finding = f"{formatting.size(free_bytes)} free"
    low = free_bytes is not None and free_bytes < LOW_DISK_BYTES
    little = free_bytes is not None and free_bytes < LITTLE_DISK_BYTES
    return Check(
        name=name,
        status="fail" if low else "warn" if little else "ok",
        finding=finding,
        hint="free space there; bases of 8B take 16 GiB" if little else "",
    )


def check_mode(name: str, mode: int | None) -> Check:
    if mode is None or mode & 0o077 == 0:
        return Check(name=name, status="ok", finding="readable by its user alone")
    hint = "there: chmod 600 on the file token in the home"
    return Check(name=name, status="fail", finding=f"open to others (mode {mode:o})", hint=hint)


def _check_ports(box: str, on_head: list[int], on_box: list[int]) -> Check:
    found = [f"{port} here from there" for port in on_head]
    found += [f"{port} there from here" for port in on_box]
    if not found:
        return Check(name=f"{box} ports", status="ok", finding="open both ways")
    finding = f"not reached: {', '.join(found)}"
    return Check(name=f"{box} ports", status="fail", finding=finding, hint=_FIREWALL)
