"""The cache of compiled kernels in the home."""

from __future__ import annotations

import os
from importlib import metadata
from pathlib import Path

import pytest

from workbench.fleet.kernel_cache import VARIABLE, kernel_folder, prune_kernels, use_kernel_cache
from workbench.home import Home

PACKAGES = ("torch", "numpy")
"""Packages that are installed everywhere; Triton is not."""


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home").make()


def chosen(home: Home, packages: tuple[str, ...] = PACKAGES, **env: str) -> str | None:
    use_kernel_cache(home, env, packages)
    return env.get(VARIABLE)


def test_kernels_are_kept_in_the_home_by_versions(home: Home) -> None:
    folder = Path(chosen(home) or "")
    assert folder.parent == home.root / "cache" / "kernels"
    assert folder.name == f"torch-{metadata.version('torch')}-numpy-{metadata.version('numpy')}"


def test_a_folder_that_the_user_chose_stays(home: Home) -> None:
    assert chosen(home, TRITON_CACHE_DIR="/elsewhere") == "/elsewhere"


def test_nothing_is_chosen_without_triton_or_a_home(home: Home, tmp_path: Path) -> None:
    assert chosen(home, ("no-such-package",)) is None
    assert chosen(Home(tmp_path / "unmade")) is None


def test_kernels_of_other_versions_and_the_oldest_of_too_many_are_removed(home: Home) -> None:
    current = kernel_folder(home, PACKAGES)
    assert current is not None
    for age, name in enumerate(("new", "middle", "old")):
        (current / name).mkdir(parents=True)
        (current / name / "kernel.cubin").write_bytes(b"0" * 1000)
        os.utime(current / name, (1e9 - age, 1e9 - age))
    (current.parent / "torch-1.0-numpy-1.0" / "one").mkdir(parents=True)
    (current / "vanishing").mkdir()
    (current / "vanishing" / "kernel.cubin").symlink_to("a file that has gone meanwhile")
    prune_kernels(home, 2500, PACKAGES)
    assert [folder.name for folder in current.parent.iterdir()] == [current.name]
    assert {folder.name for folder in current.iterdir()} == {
        "new",
        "middle",
        "vanishing",
    }
    prune_kernels(home, packages=PACKAGES)
    assert len(list(current.iterdir())) == 3
