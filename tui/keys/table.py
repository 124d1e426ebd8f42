"""Every key of the screen: one row for each action, in the order in which footers show them.

A row says where its keys work, what they do, and the words for it. To add an action, add a row and
a method `action_…` on the class that its place names; footer, `?`, palette and documentation follow
by themselves, and a test asks for a test of each row.
"""

from __future__ import annotations

from dataclasses import dataclass

VIEWS = ("Dashboard", "Trials", "Queue", "Board", "Cards", "Events")
"""The views in the order of their digits."""
APP, VIEW, LIST, TRIAL, LOG, COMPARE = "app", "view", "list", "Trial", "Log", "Compare"
"""Places of keys beside the views: anywhere, every view, a list, a trial's page, a trial's log, and
the page of compared trials."""
PAGES = (TRIAL, LOG, COMPARE)
"""Places without a list: pages that scroll as a whole."""
PLACES = (*VIEWS, *PAGES, VIEW, LIST, APP)
"""All places, the one whose key wins first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyRow:
    """One action of the screen with its keys."""

    id: str
    """Its name in `config.toml`, such as `trial.stop`."""
    keys: tuple[str, ...]
    """The keys as typed (`s`, `?`, `ctrl+p`); a comma is written `comma`. Empty: palette only."""
    action: str
    """The action in Textual's form, such as `act('stop')`, performed by the class of `place`."""
    place: str
    """Where the keys work; one of PLACES."""
    text: str
    """The action as a sentence without subject, for `?`, palette and documentation."""
    footer: str = ""
    """Its word in the footer, shared by neighbours that belong together; empty: not there."""
    palette: bool = True
    """False for keys that only move about: the palette leaves them out."""


def _row(
    id: str, keys: str, place: str, action: str, text: str, footer: str = "", palette: bool = True
) -> KeyRow:
    """Return a row; `keys` are separated by blanks."""
    return KeyRow(
        id=id,
        keys=tuple(keys.split()),
        action=action,
        place=place,
        text=text,
        footer=footer,
        palette=palette,
    )


_VIEW_ROWS = tuple(
    _row(f"go.{name.lower()}", str(digit), APP, f"app.view('{name}')", f"Go to {name}")
    for digit, name in enumerate(VIEWS, start=1)
)

TABLE: tuple[KeyRow, ...] = (
    # Each view's own keys.
    _row("queue.front", "f", "Queue", "order('front')", "Move the trial to the front", "reorder"),
    _row("queue.up", "u", "Queue", "order('up')", "Move the trial up", "reorder"),
    _row("queue.down", "d", "Queue", "order('down')", "Move the trial down", "reorder"),
    _row("queue.back", "b", "Queue", "order('back')", "Move the trial to the back", "reorder"),
    _row("queue.raise", "+", "Queue", "priority(1)", "Raise its experiment's priority", "priority"),
    _row(
        "queue.lower", "-", "Queue", "priority(-1)", "Lower its experiment's priority", "priority"
    ),
    _row("queue.hold", "h", "Queue", "hold", "Hold or release its experiment", "hold"),
    _row("queue.hold-all", "H", "Queue", "hold_all", "Hold or release the whole queue", "hold"),
    _row(
        "board.previous", "[ shift+tab", "Board", "turn(-1)", "Show the previous experiment", "turn"
    ),
    _row("board.next", "] tab", "Board", "turn(1)", "Show the next experiment", "turn"),
    _row("board.chat", "t", "Board", "chat", "Chat with the marked adapters, or this one", "chat"),
    _row(
        "board.baseline",
        "b",
        "Board",
        "baseline",
        "Pin the trial as baseline: differences are from it",
        "baseline",
    ),
    _row(
        "board.compare",
        "=",
        "Board",
        "compare",
        "Compare 2 to 6 trials: the marked ones, this one, the baseline",
        "compare",
    ),
    _row(
        "board.scatter",
        "o",
        "Board",
        "scatter",
        "Plot the score against each setting alone, or list the trials",
        "plot",
    ),
    _row("board.export", "w", "Board", "export", "Write the board to a file", "write"),
    _row("board.merge", "M", "Board", "merge", "Merge the adapter into its base", "merge"),
    _row("board.importance", "i", "Board", "importance", "Show which settings mattered", "weigh"),
    _row(
        "board.evaluate", "e", "Board", "input('evaluate')", "Score the trial on other rows", "rows"
    ),
    _row(
        "board.finals",
        "f",
        "Board",
        "input('finals')",
        "Train the best settings again with other seeds",
        "finals",
    ),
    _row(
        "cards.drain",
        "d",
        "Cards",
        "drain(False)",
        "Drain the card, undrain it, or end its quarantine",
        "drain",
    ),
    _row(
        "cards.drain-now",
        "D",
        "Cards",
        "drain(True)",
        "Drain the card now: its trial continues on another",
        "drain now",
    ),
    _row(
        "cards.history",
        "h",
        "Cards",
        "history",
        "Show the card's last hour and day alone, or its facts",
        "history",
    ),
    _row(
        "events.level",
        "l",
        "Events",
        "level",
        "Turn the least level: warning, error, debug, info",
        "level",
    ),
    _row("events.trial", "o", "Events", "trial", "Open the event's trial", "open trial"),
    _row(
        "events.of-trial",
        "t",
        "Events",
        "only('trial')",
        "List the events of its trial alone",
        "its trial/card",
    ),
    _row(
        "events.of-card",
        "C",
        "Events",
        "only('card')",
        "List the events of its card alone",
        "its trial/card",
    ),
    _row("trial.log", "l", TRIAL, "log", "Open the trial's whole log", "log"),
    _row("trial.metric", "m", TRIAL, "metric(1)", "Go to the next chart", "chart"),
    _row("trial.metric-before", "M", TRIAL, "metric(-1)", "Go to the chart before", "chart"),
    _row("curves.large", "enter", TRIAL, "enlarge", "Show the chart alone, or all", "large"),
    _row("curves.log", "L", TRIAL, "logarithmic", "Draw values on a logarithmic axis", "log axis"),
    _row("curves.smooth", "e", TRIAL, "smooth", "Smooth the curves more, or not at all", "smooth"),
    _row("curves.in", "+", TRIAL, "zoom(1)", "Show half of the steps", "zoom"),
    _row("curves.out", "-", TRIAL, "zoom(-1)", "Show twice as many steps", "zoom"),
    _row("curves.whole", "0", TRIAL, "zoom(0)", "Show all steps"),
    _row("curves.earlier", "left", TRIAL, "pan(-1)", "Show earlier steps"),
    _row("curves.later", "right", TRIAL, "pan(1)", "Show later steps"),
    _row("trial.down", "j down", TRIAL, "scroll_page('down')", "Scroll down", "", False),
    _row("trial.up", "k up", TRIAL, "scroll_page('up')", "Scroll up", "", False),
    _row("trial.top", "g home", TRIAL, "scroll_page('home')", "Scroll to the top", "", False),
    _row("trial.end", "G end", TRIAL, "scroll_page('end')", "Scroll to the end", "", False),
    _row("log.search", "/", LOG, "search", "Search the log", "search"),
    _row("log.next", "n", LOG, "find(1)", "Go to the next line that matches", "next"),
    _row("log.previous", "N", LOG, "find(-1)", "Go to the line before that matches", "next"),
    _row(
        "log.level", "l", LOG, "level", "Turn the least level: warning, error, debug, info", "level"
    ),
    _row("log.wrap", "w", LOG, "wrap", "Wrap long lines, or cut them", "wrap"),
    _row("log.follow", "f", LOG, "follow", "Follow the newest line, or stay", "follow"),
    _row("log.down", "j down", LOG, "scroll_log('down')", "Scroll down", "", False),
    _row("log.up", "k up", LOG, "scroll_log('up')", "Scroll up", "", False),
    _row("log.page-down", "pagedown", LOG, "scroll_log('page-down')", "A page down", "", False),
    _row("log.page-up", "pageup", LOG, "scroll_log('page-up')", "A page up", "", False),
    _row("log.top", "g home", LOG, "scroll_log('home')", "Go to the oldest line", "", False),
    _row("log.end", "G end", LOG, "scroll_log('end')", "Go to the newest line", "", False),
    _row("log.left", "left", LOG, "scroll_log('left')", "Show the left of cut lines", "", False),
    _row("log.right", "right", LOG, "scroll_log('right')", "Show the right", "", False),
    _row("compare.metric", "m", COMPARE, "metric(1)", "Overlay the next metric", "metric"),
    _row("compare.metric-before", "M", COMPARE, "metric(-1)", "Overlay the metric before"),
    _row(
        "compare.baseline",
        "b",
        COMPARE,
        "baseline",
        "Take differences from the next trial",
        "baseline",
    ),
    _row(
        "compare.log", "L", COMPARE, "logarithmic", "Draw values on a logarithmic axis", "log axis"
    ),
    _row("compare.smooth", "e", COMPARE, "smooth", "Smooth the curves more, or not", "smooth"),
    _row("compare.in", "+", COMPARE, "zoom(1)", "Show half of the steps", "zoom"),
    _row("compare.out", "-", COMPARE, "zoom(-1)", "Show twice as many steps", "zoom"),
    _row("compare.whole", "0", COMPARE, "zoom(0)", "Show all steps"),
    _row("compare.earlier", "left", COMPARE, "pan(-1)", "Show earlier steps"),
    _row("compare.later", "right", COMPARE, "pan(1)", "Show later steps"),
    _row("compare.down", "j down", COMPARE, "scroll_page('down')", "Scroll down", "", False),
    _row("compare.up", "k up", COMPARE, "scroll_page('up')", "Scroll up", "", False),
    _row("compare.top", "g home", COMPARE, "scroll_page('home')", "Scroll to the top", "", False),
    _row("compare.end", "G end", COMPARE, "scroll_page('end')", "Scroll to the end", "", False),
    _row("trials.sort-next", ".", "Trials", "sort(1)", "Sort by the next column", "sort"),
    _row(
        "trials.sort-previous", "comma", "Trials", "sort(-1)", "Sort by the column before", "sort"
    ),
    _row("trials.reverse", "R", "Trials", "reverse", "Reverse the order of the sorted column"),
    _row("trials.hide", "z", "Trials", "hide_ended", "Hide or show what has ended", "hide ended"),
    _row("trials.columns", "C", "Trials", "columns", "Choose the columns", "columns"),
    # Keys of the lists.
    _row("list.open", "enter", LIST, "open", "Open the row", "open", False),
    _row("list.mark", "space", LIST, "mark", "Mark the row; keys act on all marked trials", "mark"),
    _row("list.down", "j down", LIST, "move(1)", "Move the cursor down", "", False),
    _row("list.up", "k up", LIST, "move(-1)", "Move the cursor up", "", False),
    _row("list.page-down", "pagedown", LIST, "page(1)", "Move a page down", "", False),
    _row("list.page-up", "pageup", LIST, "page(-1)", "Move a page up", "", False),
    _row("list.top", "g home", LIST, "to(0)", "Move to the first row", "", False),
    _row("list.end", "G end", LIST, "to(-1)", "Move to the last row", "", False),
    # Keys of all views, for the trial under the cursor or the marked ones.
    _row("filter", "/", VIEW, "filter", "Filter the list", "filter"),
    _row("trial.stop", "s", VIEW, "act('stop')", "Stop the trial and keep its adapter", "stop"),
    _row("trial.pause", "p", VIEW, "act('pause')", "Pause the trial and free its card", "pause"),
    _row("trial.resume", "r", VIEW, "act('resume')", "Resume a paused trial", "resume"),
    _row("undo", "U", VIEW, "undo", "Undo the last action that can be undone", "undo"),
    _row("trial.clone", "c", VIEW, "input('clone')", "Clone the trial with changes", "clone"),
    _row("trial.extend", "x", VIEW, "input('extend')", "Train an ended trial longer", "extend"),
    _row("trial.add", "a", VIEW, "input('add')", "Add a trial to its experiment", "add"),
    _row("trial.move", "v", VIEW, "input('move')", "Move the trial to another card", "move"),
    _row("trial.kill", "K", VIEW, "act('kill')", "Kill the trial and keep nothing", "kill"),
    _row(
        "experiment.all",
        "S",
        VIEW,
        "experiment",
        "Stop, pause, resume or hold its experiment",
        "all",
    ),
    _row("failure", "!", VIEW, "failure", "Go to the next failed trial and its hint", "failures"),
    _row("copy", "y", VIEW, "copy", "Copy the trial's settings, to paste behind -s or after c"),
    _row("step-out", "escape", VIEW, "back", "Step out one layer", "", False),
    # Actions of the palette alone.
    _row("trial.evaluate", "", VIEW, "input('evaluate')", "Score the trial on other rows"),
    _row("trial.finals", "", VIEW, "input('finals')", "Train the best settings with other seeds"),
    _row("experiment.limit", "", VIEW, "input('max-parallel')", "Limit its experiment's trials"),
    _row("experiment.hold", "", VIEW, "hold", "Hold or release its experiment"),
    _row("experiment.raise", "", VIEW, "priority(1)", "Raise its experiment's priority"),
    _row("experiment.lower", "", VIEW, "priority(-1)", "Lower its experiment's priority"),
    _row("hold-all", "", VIEW, "hold_all", "Hold or release the whole queue"),
    # Keys that work everywhere.
    _row("new", "n", APP, "app.new_run", "Begin a run: recipe, settings, and what fits", "new"),
    *_VIEW_ROWS,
    _row("palette", ": ctrl+p", APP, "app.command_palette", "Find any action by name", "", False),
    _row("engine", "E", APP, "app.start_engine", "Start the engine"),
    _row("doctor", "I", APP, "app.doctor", "Inspect this machine: cards, libraries, disk"),
    _row("theme", "", APP, "app.other_theme", "Switch to the next theme"),
    _row("redraw", "ctrl+l", APP, "app.redraw", "Draw the whole screen again"),
    _row("keys", "?", APP, "app.keys", "Show the keys", "keys"),
    _row("leave", "q ctrl+q", APP, "app.leave", "Leave; training goes on", "leave"),
)
"""All rows; footers keep this order."""

ROWS = {row.id: row for row in TABLE}
"""The rows by their ids."""


def rows_at(place: str) -> tuple[KeyRow, ...]:
    """Return the rows of one place, in the table's order."""
    return tuple(row for row in TABLE if row.place == place)
