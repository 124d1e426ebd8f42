"""TRL's training templates: a family's chat template with generation marks around the answers.

TRL ships each beside the family's own template, as `NAME_training.jinja` and `NAME.jinja`. Some
show more than the original (Qwen3's the reasoning of every answer), so that each chat is compared.
TRL itself is not imported, which would take seconds.
"""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from pathlib import Path

_SUFFIX = "_training"


def training_template(template: str) -> str | None:
    """Return TRL's training template for a family's own template; None where it has none."""
    return _known().get(template.strip())


@cache
def _known() -> dict[str, str]:
    """Return all training templates by the text of the original; reads some sixty small files."""
    spec = find_spec("trl")
    if spec is None or spec.origin is None:
        return {}
    found: dict[str, str] = {}
    for marked in sorted((Path(spec.origin).parent / "chat_templates").glob(f"*{_SUFFIX}.jinja")):
        original = marked.with_name(f"{marked.stem.removesuffix(_SUFFIX)}.jinja")
        if original.is_file():
            text = original.read_text(encoding="utf-8").strip()
            found[text] = marked.read_text(encoding="utf-8")
    return found
