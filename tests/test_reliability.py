"""docs/reliability.md names tests: each is there."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
NAMED = re.compile(r"`(tests/[\w/]+\.py)(?:: (\w+))?`")


def test_every_test_that_a_promise_names_is_there() -> None:
    named = NAMED.findall((ROOT / "docs/reliability.md").read_text())
    assert len(named) > 20
    missing = [
        (path, test)
        for path, test in named
        if not re.search(rf"def {test}\(" if test else "", (ROOT / path).read_text())
    ]
    assert not missing
