"""Every requirement has a lower bound, so that the lowest versions can be installed and tested."""

from __future__ import annotations

from importlib import metadata

import pytest
from packaging.version import Version

from tests.support.lowest_versions import declared, lowest_versions


def test_every_requirement_has_a_lower_bound_that_is_met_here() -> None:
    for package, lowest in lowest_versions(declared()).items():
        assert Version(metadata.version(package)) >= Version(lowest), package


def test_a_requirement_without_a_bound_is_refused() -> None:
    with pytest.raises(ValueError, match="numpy has no lower bound"):
        lowest_versions(["numpy"])


def test_the_lowest_version_is_read_from_either_form() -> None:
    found = lowest_versions(["torch>=2.11,<2.14", "textual==8.2.8", "PyYAML>=6.0.2"])
    assert found == {"torch": "2.11", "textual": "8.2.8", "PyYAML": "6.0.2"}
