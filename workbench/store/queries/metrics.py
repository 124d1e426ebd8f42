"""Metrics of a trial: their names, and curves of as many points as a chart has columns."""

from __future__ import annotations

from workbench.store.reader import Reader
from workbench.store.rows import Point

BAND_STEPS = 1_024
"""Optimizer steps that one row of metric_bands covers."""


def metric_names(reader: Reader, trial: int) -> list[str]:
    """Return the names of the metrics that the trial has reported, sorted."""
    rows = reader.db.execute("select distinct name from metric_bands where trial = ?", (trial,))
    return sorted(row[0] for row in rows)


def read_series(
    reader: Reader, trial: int, name: str, points: int = 200, span: tuple[int, int] | None = None
) -> list[Point]:
    """Return one metric over all steps as at most `points` parts of equally many steps.

    `span` are the first and the last step to read, unless all. Each point has the lowest and the
    highest value of its part. Reads at most points × 1,024 metric rows, or the bands where there
    are more steps than that.
    """
    metrics = "metrics where trial = :trial and name = :name and step between :low and :high"
    low, high = span or (0, 1 << 62)
    bounds = {"trial": trial, "name": name, "low": low, "high": high}
    first, last = reader.db.execute(  # min and max in one select would read every row
        f"select (select min(step) from {metrics}), (select max(step) from {metrics})", bounds
    ).fetchone()
    if first is None:
        return []
    width = (last - first) // points + 1
    if width >= BAND_STEPS:
        query = f"""select min(band) * {BAND_STEPS} as step, min(low) as low, max(high) as high
            from metric_bands where trial = :trial and name = :name
            and band between :low / {BAND_STEPS} and :high / {BAND_STEPS}
            group by (band * {BAND_STEPS} - :first) / :width order by 1"""
    else:
        query = f"""select min(step) as step, min(value) as low, max(value) as high
            from {metrics} group by (step - :first) / :width order by 1"""
    rows = reader.db.execute(query, {**bounds, "first": first, "width": width})
    return [
        Point(step=r["step"], low=r["low"], high=r["high"]) for r in rows if r["low"] is not None
    ]
