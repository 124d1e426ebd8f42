"""The state that all screens share: the newest picture, the marked trials, and the clock."""

from __future__ import annotations

from collections.abc import Callable

from tui.chart import Curve
from tui.keys.keymap import Keymap
from tui.messages import Picture
from tui.paint import SERIES
from workbench import formatting
from workbench.service import Snapshot, TrialRow


class ViewState:
    """The app's one shared state; its handlers change it, screens only read it."""

    def __init__(self, now: Callable[[], float], keymap: Keymap | None = None) -> None:
        self.now = now
        self.keymap = keymap or Keymap()
        self.picture: Picture | None = None
        self.read_error = ""
        self._slots: dict[int, int] = {}
        """The marked trials, each with the slot of its curve."""

    @property
    def snapshot(self) -> Snapshot | None:
        """The newest snapshot; None before the first reading."""
        return self.picture.snapshot if self.picture else None

    @property
    def marked(self) -> frozenset[int]:
        """The trials whose curves the user chose to draw together."""
        return frozenset(self._slots)

    def update(self, picture: Picture) -> None:
        """Take over a new picture; a reading that succeeded clears the read error."""
        self.picture = picture
        self.read_error = ""

    def trial(self, id: int | None) -> TrialRow | None:
        """Return the trial's row in the newest snapshot; None where it is not in it."""
        trials = self.snapshot.trials if self.snapshot else []
        return next((row for row in trials if row.id == id), None)

    def toggle(self, trial: int) -> bool:
        """Mark or unmark a trial; return False when `SERIES` trials are marked already."""
        if trial in self._slots:
            del self._slots[trial]
            return True
        free = sorted(set(range(SERIES)) - set(self._slots.values()))
        if not free:
            return False
        self._slots[trial] = free[0]
        return True

    def drawn(self) -> dict[int, int]:
        """Return the trials on the dashboard's chart with their slots: marked, else live ones."""
        if self._slots:
            return dict(self._slots)
        trials = self.snapshot.trials if self.snapshot else []
        live = [row.id for row in trials if row.state.live]
        return {id: slot for slot, id in enumerate(live[:SERIES])}

    def curves(self, name: str) -> list[Curve]:
        """Return the curve `name` of every drawn trial that has values in the newest picture."""
        if self.picture is None:
            return []
        out = []
        for id, slot in self.drawn().items():
            row = self.trial(id)
            points = self.picture.series.get((id, name), ())
            if row is not None and points:
                out.append(Curve(label=formatting.trial_label(row), slot=slot, points=points))
        return out
