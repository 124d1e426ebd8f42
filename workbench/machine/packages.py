"""Installed packages that do not go together with ours, and optional packages of kernels.

Conflicts have two sources: the bounds in our own package metadata, and a table of packages that we
do not need but that break those we need when they are installed beside them. Nothing is imported.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import InvalidVersion, Version

OURS = "qlora-workbench"


KERNEL_PACKAGES = {
    "flash-linear-attention": "fla",
    "causal-conv1d": "causal_conv1d",
    "mamba-ssm": "mamba_ssm",
}
"""Packages of kernels that some models use where they are installed, with the module of each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Conflict:
    """A package that breaks others in some of its versions."""

    package: str
    versions: str
    """The versions that break, as pip writes a range."""
    breaks: str
    """The thing that fails beside such a version."""
    install: str
    """The range that works, as pip takes it; it can be uninstalled as well."""
    source: str
    """The source of the range."""


CONFLICTS = (
    Conflict(
        package="torchao",
        versions="<0.16",
        breaks="PEFT raises an ImportError for every adapter on a base that is not 4-bit: 16-bit "
        "training and merging fail",
        install="torchao>=0.16",
        source="peft 0.21, import_utils.is_torchao_available",
    ),
    Conflict(
        package="gptqmodel",
        versions="<7.0",
        breaks="PEFT raises an ImportError for every adapter on a base that is not 4-bit: 16-bit "
        "training and merging fail",
        install="gptqmodel>=7.0",
        source="peft 0.21, import_utils.is_gptqmodel_available",
    ),
)
TORCHVISION_BEHIND = 15
"""torchvision 0.(n + 15) is built for torch 2.n (github.com/pytorch/vision, its table of
versions). transformers imports it where it is installed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PackageProblem:
    """An installed or missing package that does not go together with ours."""

    package: str
    what: str
    """Package, version and what is wrong with it."""
    hint: str
    breaks: bool = True
    """False for a version above our bounds, which may work and was not tried."""


def installed_versions(path: Sequence[str] | None = None) -> dict[str, str]:
    """Return the versions of all installed packages by normalised name; some milliseconds.

    Looks on Python's import path, or in the folders of `path`. The first one found counts, as for
    an import.
    """
    found: dict[str, str] = {}
    places = metadata.distributions() if path is None else metadata.distributions(path=list(path))
    for one in places:
        name = one.metadata["Name"]
        if name:
            found.setdefault(_normal(name), one.version)
    return found


def declared_requirements() -> list[str]:
    """Return the requirements in our own metadata, without extras; empty if not installed."""
    try:
        found = metadata.requires(OURS) or []
    except metadata.PackageNotFoundError:
        return []
    return [one for one in found if "extra ==" not in one]


def package_problems(
    installed: Mapping[str, str] | None = None, requirements: Sequence[str] | None = None
) -> list[PackageProblem]:
    """Return what does not go together, those that break something first.

    `installed` has versions by normalised name; left out, this Python's. `requirements` are the
    bounds to compare with; left out, our own.
    """
    versions = installed_versions() if installed is None else installed
    bounds = declared_requirements() if requirements is None else requirements
    found = [*_conflicts(versions), *_torchvision(versions), *_outside(versions, bounds)]
    return sorted(found, key=lambda one: not one.breaks)


def _conflicts(versions: Mapping[str, str]) -> list[PackageProblem]:
    return [
        PackageProblem(
            package=one.package,
            what=f"{one.package} {versions[one.package]} breaks others: {one.breaks}",
            hint=f"pip install '{one.install}', or pip uninstall {one.package}",
        )
        for one in CONFLICTS
        if _within(versions.get(one.package), one.versions)
    ]


def _torchvision(versions: Mapping[str, str]) -> list[PackageProblem]:
    torch, vision = _version(versions.get("torch")), _version(versions.get("torchvision"))
    if torch is None or vision is None or torch.major != 2 or vision.major != 0:
        return []
    if vision.minor == torch.minor + TORCHVISION_BEHIND:
        return []
    wanted = f"torchvision==0.{torch.minor + TORCHVISION_BEHIND}.*"
    return [
        PackageProblem(
            package="torchvision",
            what=f"torchvision {vision} is built for another torch than {torch}: importing "
            "transformers can fail",
            hint=f"pip install '{wanted}', or pip uninstall torchvision",
        )
    ]


def _outside(versions: Mapping[str, str], bounds: Sequence[str]) -> list[PackageProblem]:
    found = []
    for text in bounds:
        try:
            wanted = Requirement(text)
        except InvalidRequirement:
            continue
        if wanted.marker is not None and not wanted.marker.evaluate():
            continue
        have = versions.get(_normal(wanted.name))
        if have is not None and _within(have, str(wanted.specifier)):
            continue
        install = f"pip install '{wanted.name}{wanted.specifier}'"
        what = f"{wanted.name} is not installed"
        if have is not None:
            what = f"{wanted.name} {have} is outside the versions that work, {wanted.specifier}"
        found.append(
            PackageProblem(
                package=wanted.name,
                what=what,
                hint=install,
                breaks=have is None or not _is_above(have, wanted.specifier),
            )
        )
    return found


def _is_above(have: str, specifier: SpecifierSet) -> bool:
    """Return True if only upper bounds exclude the version."""
    lower = [str(one) for one in specifier if one.operator in (">=", ">", "~=")]
    return bool(lower) and _within(have, ",".join(lower))


def _within(have: str | None, specifier: str) -> bool:
    version = _version(have)
    # Release candidates and local builds (2.13.0+cpu) count as their release.
    return version is not None and SpecifierSet(specifier).contains(version, prereleases=True)


def _version(text: str | None) -> Version | None:
    try:
        return Version(text) if text else None
    except InvalidVersion:
        return None


def hide_kernel_packages() -> None:
    """Let models that are imported from now on compute by PyTorch: for a process without a GPU.

    transformers 5.24 takes the packages' kernels wherever they are installed, on a CPU too
    (findings/transformers-takes-gpu-kernels-on-a-cpu.sh).
    """
    for module in KERNEL_PACKAGES.values():
        # None makes Python's import raise ImportError, as for a package that is not there.
        sys.modules.setdefault(module, None)  # type: ignore[arg-type]


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def install_command(packages: Sequence[str]) -> str:
    """Return the command that installs packages of kernels."""
    # causal-conv1d and mamba-ssm are compiled against the torch that is there.
    isolated = " --no-build-isolation" if set(packages) - {"flash-linear-attention"} else ""
    return f"pip install{isolated} {' '.join(packages)}"
