"""The plan of an attempt: how it runs on its card; its memory as bars, predicted and measured."""

from __future__ import annotations

from tui.paint import Line, done_bar, plain_part
from tui.tables.detail import named_fact
from workbench import formatting
from workbench.service import AttemptRow, CardRow


def plan_lines(attempt: AttemptRow | None, card: CardRow | None) -> list[Line]:
    """Return how the attempt runs on its card, and its predicted and measured memory."""
    from workbench.footprint.plan import (
        describe_plan,  # pydantic: 0.1 s of a start that has no plan
    )

    if attempt is None:
        return [(("planned when a card is free", "dim"),)]
    given = attempt.plan
    lines = [
        named_fact("precision", plain_part(given.get("precision", formatting.UNKNOWN))),
        named_fact(
            "attention",
            plain_part(given.get("attention", formatting.UNKNOWN)),
            ("  ", ""),
            plain_part(given.get("attention_why", ""), "dim"),
        ),
        named_fact("optimizer", plain_part(given.get("optimizer", formatting.UNKNOWN))),
        *(named_fact(name, plain_part(text)) for name, text in describe_plan(given).items()),
        *_memory(attempt, card),
    ]
    buckets = given.get("buckets")
    if isinstance(buckets, dict):
        known = [(str(k), v) for k, v in buckets.items() if isinstance(v, int) and v > 0]
        whole = card.total_bytes if card else sum(size for _, size in known)
        for name, size in sorted(known, key=lambda pair: -pair[1]):
            bar = done_bar(size / max(1, whole), 10, "dim")
            text = (f"{formatting.size(size):>9}  ", "")
            lines.append(named_fact(f"· {name.replace('_', ' ')}", text, *bar))
    return lines


def _memory(attempt: AttemptRow, card: CardRow | None) -> list[Line]:
    total = card.total_bytes if card else max(attempt.predicted_bytes, attempt.peak_bytes or 0)
    lines = [
        named_fact(
            "predicted peak",
            (f"{formatting.size(attempt.uncorrected_bytes):>9}  ", ""),
            *done_bar(attempt.uncorrected_bytes / max(1, total), 10, "dim"),
        )
    ]
    if attempt.predicted_bytes != attempt.uncorrected_bytes:
        more = formatting.relative_change(attempt.predicted_bytes, attempt.uncorrected_bytes)
        lines.append(
            named_fact(
                "corrected peak",
                (f"{formatting.size(attempt.predicted_bytes):>9}  ", ""),
                *done_bar(attempt.predicted_bytes / max(1, total), 10, "dim"),
                (f" {more} by earlier measurements", "dim"),
            )
        )
    if attempt.peak_bytes is not None:
        off = formatting.relative_change(attempt.peak_bytes, attempt.predicted_bytes)
        lines.append(
            named_fact(
                "measured peak",
                (f"{formatting.size(attempt.peak_bytes):>9}  ", "bold"),
                *done_bar(attempt.peak_bytes / max(1, total), 10, "live"),
                (f" {off}", "dim"),
            )
        )
    if card is not None:
        lines.append(named_fact("card's memory", (f"{formatting.size(card.total_bytes):>9}", "")))
    return lines
