"""The tables of the documentation, made from the table of keys.

python -m tui.keys.page            # writes docs/keys.md again
"""

from __future__ import annotations

from pathlib import Path

from tui.keys.keymap import key_text
from tui.keys.table import APP, COMPARE, LIST, LOG, PLACES, TRIAL, VIEW, rows_at

PAGE = Path(__file__).parents[2] / "docs" / "keys.md"
BEGIN, END = "<!-- keys -->\n", "<!-- end of keys -->\n"
"""The lines of the page between which the tables stand."""
_TITLES = {
    TRIAL: "A trial's page",
    LOG: "A trial's log",
    COMPARE: "The page of compared trials",
    VIEW: "Every view, for the trial under the cursor or the marked ones",
    LIST: "Every list",
    APP: "Everywhere",
}


def key_tables() -> str:
    """Return a table in Markdown for each place: keys, what they do, and the name for config.toml.

    Actions without a key are in the palette alone.
    """
    parts = []
    for place in PLACES:
        lines = ["| keys | what they do | name |", "|---|---|---|"]
        for row in rows_at(place):
            keys = " ".join(f"`{key_text(key)}`" for key in row.keys) or "palette"
            # A bar would end the cell.
            lines.append(f"| {keys} | {row.text} | `{row.id}` |".replace("`|`", "`\\|`"))
        if len(lines) > 2:
            parts.append(f"### {_TITLES.get(place, place)}\n\n" + "\n".join(lines) + "\n")
    return "\n".join(parts)


def renew_page(text: str) -> str:
    """Return the page with the tables of today."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{key_tables()}\n{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(renew_page(PAGE.read_text()))
