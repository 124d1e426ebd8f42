"""What all screens share: the newest picture, what is marked, the pace of trials, the time."""

from __future__ import annotations

from collections.abc import Callable

from tui.chart import Curve
from tui.messages import Picture
from tui.paint import SERIES
from tui.present import trial_name
from tui.time_left import Pace
from workbench.service import Snapshot, TrialRow


class ViewState:
    """One for the app. Changed by its handlers only, read by screens."""

    def __init__(self, now: Callable[[], float]) -> None:
        self.now = now
        self.picture: Picture | None = None
        self.read_error = ""
        self.pace = Pace()
        self._slots: dict[int, int] = {}
        """Marked trials and the curve of each."""

    @property
    def snapshot(self) -> Snapshot | None:
        return self.picture.snapshot if self.picture else None

    @property
    def marked(self) -> frozenset[int]:
        return frozenset(self._slots)

    def see(self, picture: Picture) -> None:
        self.picture = picture
        self.read_error = ""
        self.pace.see(picture.snapshot.trials, self.now())

    def trial(self, id: int | None) -> TrialRow | None:
        trials = self.snapshot.trials if self.snapshot else []
        return next((row for row in trials if row.id == id), None)

    def toggle(self, trial: int) -> bool:
        """Mark or unmark; False when as many are marked as curves can be told apart."""
        if trial in self._slots:
            del self._slots[trial]
            return True
        free = sorted(set(range(SERIES)) - set(self._slots.values()))
        if not free:
            return False
        self._slots[trial] = free[0]
        return True

    def drawn(self) -> dict[int, int]:
        """Trials on the dashboard's chart, each with its curve: the marked ones, else the live."""
        if self._slots:
            return dict(self._slots)
        trials = self.snapshot.trials if self.snapshot else []
        live = [row.id for row in trials if row.state.live]
        return {id: slot for slot, id in enumerate(live[:SERIES])}

    def curves(self, name: str) -> list[Curve]:
        """Of every drawn trial that the newest picture has values for."""
        if self.picture is None:
            return []
        out = []
        for id, slot in self.drawn().items():
            row = self.trial(id)
            points = self.picture.series.get((id, name), ())
            if row is not None and points:
                out.append(Curve(label=trial_name(row), slot=slot, points=points))
        return out
