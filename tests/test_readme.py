"""README says where things are; this holds it to that."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PLACES = re.findall(r"^\| Where .*? \| `([^`]+)` \|$", README, flags=re.MULTILINE)


def test_the_table_is_there() -> None:
    assert len(PLACES) >= 15


@pytest.mark.parametrize("place", PLACES)
def test_every_place_it_names_exists(place: str) -> None:
    path, _, name = place.partition(": ")
    assert name in (ROOT / path).read_text()


def test_the_two_commands_are_targets_of_the_makefile() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^    make (\w+)", README, flags=re.MULTILINE):
        assert f"\n{target}:" in makefile


def test_ci_runs_the_readmes_test_command() -> None:
    assert "\nmake test" in (ROOT / ".ci" / "run").read_text()


def test_pictures_and_pages_it_points_to_exist() -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / target).exists(), target
