"""The keys in force: the table's, or those that the user gave an action in `config.toml`."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence

from textual.binding import Binding
from textual.keys import format_key

from tui.keys.table import APP, LIST, PAGES, PLACES, ROWS, VIEW, KeyRow, rows_at
from workbench.errors import UsageError, WorkbenchError
from workbench.home import config_file
from workbench.text import safe_line


class KeyMistake(UsageError):
    """A mistake in the [keys] section of the user's configuration."""


def read_keymap() -> tuple[Keymap, WorkbenchError | None]:
    """Return the keys in force, and the mistake for which the configuration's keys do not apply."""
    if not (path := config_file()).exists():
        return Keymap(), None  # without pydantic, which costs 0.1 s at the start
    from workbench.user_config import read_user_config

    try:
        return Keymap(read_user_config(path).keys), None
    except WorkbenchError as mistake:
        return Keymap(), mistake


def place_bindings(place: str) -> list[Binding]:
    """Return Textual's bindings of one place; each has its row's id, so that it can be remapped.

    Keys of views go through the view's `action_press`, which says why an action is disabled.
    """
    direct = place in (APP, LIST)
    return [
        Binding(
            ",".join(row.keys), row.action if direct else f"press('{row.id}')", row.text, id=row.id
        )
        for row in rows_at(place)
        if row.keys
    ]


class Keymap:
    """The table's keys with the user's changes; it answers which keys an action has now."""

    def __init__(self, changed: Mapping[str, Sequence[str]] | None = None) -> None:
        """`changed` has the new keys by row id. Raises KeyMistake for an unusable change."""
        self._changed = {id: tuple(keys) for id, keys in (changed or {}).items()}
        _check_changes(self._changed)
        self._check_clashes()

    def keys_of(self, id: str) -> tuple[str, ...]:
        """Return the keys of an action as the user types them; empty without a key."""
        return self._changed.get(id, ROWS[id].keys)

    def shown_key(self, id: str) -> str:
        """Return the first key of an action as footers show it; empty without a key."""
        return "".join(key_text(key) for key in self.keys_of(id)[:1])

    def changes(self) -> dict[str, str]:
        """Return the user's changes in the form of Textual's `set_keymap`."""
        return {id: ",".join(keys) for id, keys in self._changed.items()}

    def rows_for(self, place: str) -> Iterator[KeyRow]:
        """Yield the rows that work at a view or on a trial's page, its own first.

        Rows whose keys are all taken by a nearer place, or that repeat a nearer action, are left
        out.
        """
        taken: set[str] = set()
        actions: set[str] = set()
        for where in (place, *(() if place in PAGES else (LIST,)), VIEW, APP):
            for row in rows_at(where):
                keys = self.keys_of(row.id)
                hidden = bool(keys) and set(keys) <= taken
                if hidden or row.action in actions:
                    continue
                taken.update(keys)
                actions.add(row.action)
                yield row

    def footer(self, place: str) -> list[tuple[str, str, list[str]]]:
        """Return (keys, word, row ids) for each entry of the footer of a place."""
        entries: list[tuple[str, str, list[str]]] = []
        for row in self.rows_for(place):
            key = self.shown_key(row.id)
            if not row.footer or not key:
                continue
            if entries and entries[-1][1] == row.footer:
                keys, word, ids = entries[-1]
                entries[-1] = (f"{keys} {key}", word, [*ids, row.id])
            else:
                entries.append((key, row.footer, [row.id]))
        return entries

    def _check_clashes(self) -> None:
        """Raise where two actions of one place have the same key and one of them was changed."""
        for place in PLACES:
            owner: dict[str, str] = {}
            # The mistake is in what was changed, also where the other row comes later.
            for row in sorted(rows_at(place), key=lambda row: row.id in self._changed):
                for key in self.keys_of(row.id):
                    other = owner.setdefault(key, row.id)
                    if other != row.id and {other, row.id} & self._changed.keys():
                        raise KeyMistake(
                            f"keys.{row.id}: {key} is the key of {other} already",
                            hint=f"give {other} another key too, or choose a free one",
                        )


def _check_changes(changed: Mapping[str, Sequence[str]]) -> None:
    for id, keys in changed.items():
        if id not in ROWS:
            near = difflib.get_close_matches(id, ROWS, n=1)
            raise KeyMistake(
                f"keys.{safe_line(id, 40)} is no action",
                hint=f"did you mean {near[0]}?" if near else "docs/keys.md lists the actions",
            )
        if not keys or not all(keys):
            raise KeyMistake(
                f"keys.{id} names no key", hint='write a key such as "s" or "ctrl+s", or a list'
            )


def key_text(key: str) -> str:
    """Return a key as footers and documentation show it: `/`, `esc`, `ctrl+p`, `,`."""
    *modifiers, last = key.split("+") if len(key) > 1 else (key,)
    return "+".join((*modifiers, "enter" if last == "enter" else format_key(last)))
