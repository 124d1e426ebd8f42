"""Packages that break ours, or are outside our bounds, are reported with a command that helps."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet

from workbench.attempts.events import FailureCause
from workbench.doctor.machine import check_packages
from workbench.machine.packages import (
    declared_requirements,
    installed_versions,
    package_problems,
)
from workbench.training.failure import classify

GOOD = {"torch": "2.13.0+cpu", "peft": "0.21.2"}


def fake_package(folder: Path, name: str, version: str) -> None:
    """Lay a package with real metadata and no content into the folder."""
    (folder / name).mkdir(parents=True)
    (folder / name / "__init__.py").touch()
    about = folder / f"{name}-{version}.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")


def applied(hint: str, installed: dict[str, str]) -> dict[str, str]:
    """The packages after the first command of a hint, `pip install 'torchao>=0.16'`."""
    found = re.match(r"pip install '([\w-]+)([^']+)'", hint)
    assert found, hint
    candidates = [f"{major}.{minor}.0" for major in range(9) for minor in range(60)]
    version = next(one for one in candidates if one in SpecifierSet(found[2]))
    return installed | {found[1].lower(): version}


def test_what_is_installed_here_goes_together() -> None:
    assert package_problems() == []
    assert check_packages().status == "ok"
    assert any(one.startswith("transformers") for one in declared_requirements())


@pytest.mark.parametrize(
    ("package", "version"),
    [("torchao", "0.12.0"), ("gptqmodel", "6.1.0"), ("torchvision", "0.24.1")],
)
def test_a_package_that_breaks_ours_is_named_and_the_hint_cures_it(
    package: str, version: str
) -> None:
    installed = GOOD | {package: version}
    (problem,) = package_problems(installed, [])
    assert problem.what.startswith(f"{package} {version}")
    assert problem.breaks
    assert f"pip uninstall {package}" in problem.hint
    assert package_problems(applied(problem.hint, installed), []) == []


@pytest.mark.parametrize("have", ["5.17.0", None])
def test_a_package_below_our_bounds_breaks_and_the_hint_cures_it(have: str | None) -> None:
    installed = GOOD | ({"transformers": have} if have else {})
    (problem,) = package_problems(installed, ["transformers<6,>=5.24", "torch<2.14,>=2.11"])
    assert problem.breaks
    assert (have or "not installed") in problem.what
    assert package_problems(applied(problem.hint, installed), ["transformers<6,>=5.24"]) == []


def test_a_package_above_our_bounds_is_a_warning() -> None:
    installed = GOOD | {"torch": "2.14.1"}
    problems = package_problems(installed, ["torch<2.14,>=2.11"])
    assert [one.breaks for one in problems] == [False]
    check = check_packages(problems)
    assert (check.status, check.hint) == ("warn", "pip install 'torch<2.14,>=2.11'")


def test_markers_extras_and_odd_versions_do_no_harm() -> None:
    bounds = ["winonly>=1; sys_platform == 'win32'", "no requirement at all!", "Odd_Name>=1"]
    assert package_problems({"odd-name": "1.0rc1.dev3", "torch": "unknown"}, bounds) != []
    assert package_problems({"odd-name": "2.0"}, bounds) == []


def test_versions_are_read_from_metadata_without_importing(tmp_path: Path) -> None:
    fake_package(tmp_path, "torchao", "0.12.0")
    (tmp_path / "torchao/__init__.py").write_text("raise SystemExit('imported')")
    assert installed_versions([str(tmp_path)]) == {"torchao": "0.12.0"}


@pytest.mark.slow  # it imports torch and PEFT in a process of its own
def test_the_table_says_what_peft_does(tmp_path: Path) -> None:
    """The installed PEFT refuses just the versions that the table names."""
    code = (
        "import os, sys\nfrom peft import LoraConfig, get_peft_model\nfrom torch import nn\n"
        "from peft.import_utils import is_torchao_available\n"
        "def adapt():\n"
        "    model, where = nn.Sequential(nn.Linear(2, 2)), ['0']\n"
        "    get_peft_model(model, LoraConfig(target_modules=where))\n"
        "adapt()\n"  # imports what both need
        "is_torchao_available.cache_clear()\n"
        "for folder in sys.argv[1:]:\n"
        "    if os.fork() == 0:\n"  # one import for both
        "        sys.stderr = open(f'{folder}.err', 'w')\n"
        "        sys.path.insert(0, folder)\n"  # transformers wants more of it than its name
        "        adapt()\n"
        "        sys.exit()\n"
        "    os.wait()\n"
    )
    versions = ("0.15.0", "0.16.0")  # on either side of the bound
    folders = [tmp_path / version for version in versions]
    for folder in folders:
        fake_package(folder, "torchao", folder.name)
    subprocess.run([sys.executable, "-c", code, *map(str, folders)], check=True)
    codes = {}
    for folder in folders:
        said = folder.with_name(f"{folder.name}.err").read_text()
        incompatible = "incompatible version of torchao" in said
        codes[folder.name] = incompatible
        assert incompatible == bool(package_problems(installed_versions([str(folder)]), [])), said
    assert codes == {"0.15.0": True, "0.16.0": False}


def test_a_failed_attempt_names_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_package(tmp_path / "site", "torchao", "0.12.0")
    error = ImportError("Found an incompatible version of torchao.")
    assert classify(error, folder=tmp_path, predicted_bytes=1).cause is FailureCause.BUG
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    failure = classify(error, folder=tmp_path, predicted_bytes=1)
    assert failure.cause is FailureCause.MODEL
    assert "torchao 0.12.0 breaks others" in failure.reason
    assert "pip install 'torchao>=0.16'" in failure.hint
    assert classify(KeyError(), folder=tmp_path, predicted_bytes=1).cause is FailureCause.BUG
