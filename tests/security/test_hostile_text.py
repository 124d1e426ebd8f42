"""Foreign text stays harmless on its way from an event file to the terminal and the screen."""

from __future__ import annotations

import json
import os
import pty
import re
import shutil
import subprocess
import sys
import unicodedata
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.tick_contexts import Bench, cpu_card, make_bench, recipe
from tests.tui.conftest import shown, text
from tests.tui.filled import engine_running
from tests.tui.test_app import press, trials
from workbench.attempts.events import EventWriter
from workbench.cli import main
from workbench.home import Home
from workbench.store.queries.metrics import metric_names
from workbench.text import safe_text
from workbench.trial import State

CHUNKS = {
    "colour": "\x1b[31mred",
    "clear": "\x1b[2J\x1b[H",
    "title": "\x1b]0;gone\x07",
    "clipboard": "\x1b]52;c;aGFja2Vk\x07",
    "clipboard, ended by ST": "\x1b]52;c;aGFja2Vk\x1b\\",
    "device string": "\x1bPq#0\x1b\\",
    "one byte CSI": "\x9b31m",
    "one byte OSC": "\x9d52;c;aGk=\x9c",
    "left open": "\x1b]8;;http://x",
    "markup": "[red]x[/][/nope][@click=app.quit]y[/]",
    "bidi": "\u202egnp.exe\u202c\u2066x\u2069\u061c",
    "zero width": "a\u200bb\u200dc\u2060d\ufeffe\u00adf\u180eg",
    "tags": "\U000e0041\U000e007f",
    "lines": "a\r\nb\rc\x0bd\x0ce\u2028f\u2029g",
    "nul and bell": "\x00\x07\x08\x7f",
    "surrogate": "\udc80",
}
HOSTILE = "evil " + " ".join(CHUNKS.values())
LONG = "evil " + "\x1b[31m" * 1_000 + "x" * (1 << 20)
COMMANDS = (
    ["ls", "--all"],
    ["ls", "tiny"],
    ["show", "2"],
    ["logs", "2"],
    ["board"],
    ["cards"],
    ["importance", "tiny"],
    ["engine", "status"],
)


def raw(said: str) -> set[str]:
    """Return characters that a terminal would interpret or that are invisible."""
    return {c for c in said if c != "\n" and unicodedata.category(c) in ("Cc", "Cf", "Cs")}


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home in which every foreign text is hostile, written through the usual code paths."""
    card = cpu_card(0) | {"name": HOSTILE, "problem": ""}
    bench = make_bench(tmp_path_factory.mktemp("poisoned"), [card])
    bench.submit(recipe())
    bench.until(State.RUNNING, 2)
    _speak(bench)
    bench.context.fleet.close()
    bench.store.close()
    return bench.context.home.root


@pytest.fixture
def poisoned(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    """A home with an engine that runs and does nothing."""
    home = Home(tmp_path / "home")
    shutil.copytree(template, home.root)
    monkeypatch.setenv("WORKBENCH_HOME", str(home.root))
    with engine_running(home):
        yield home


def _speak(bench: Bench) -> None:
    [attempt] = bench.store.live_attempts()
    writer = EventWriter(bench.context.home.attempt(attempt.id) / "events.jsonl")
    writer.write("phase", name=HOSTILE)
    for line in (HOSTILE, LONG):
        writer.write("log", level="error", text=line)
    for chunk in CHUNKS.values():
        writer.write("log", text=f"evil {chunk}")
    writer.write("metric", step=1, values={HOSTILE: 1.0})
    writer.write("sample", question=HOSTILE, expected=HOSTILE, answer=LONG, right=True)
    writer.write(HOSTILE, text=HOSTILE)
    writer.close()
    file = bench.context.home.attempt(attempt.id) / "events.jsonl"
    with file.open("ab") as lines:
        lines.write(HOSTILE.encode(errors="replace").replace(b"\n", b"") + b"\n")
        lines.write(b"\xff\xfe\x1b[31m evil\n" + b"y" * (3 << 20) + b"\n")
    writer = EventWriter(file)
    writer.write("end", outcome="failed", reason=HOSTILE, hint=HOSTILE)
    writer.close()
    for _ in range(4):
        bench.ticks()
    with bench.store.writing():  # and what some other way might bring
        bench.store.db.execute(
            "update trials set waiting = ?, settings = ? where id = 1",
            (HOSTILE.encode(errors="replace").decode(), json.dumps({HOSTILE: HOSTILE})),
        )


@pytest.mark.parametrize("chunk", CHUNKS)
def test_no_chunk_survives(chunk: str) -> None:
    clean = safe_text(CHUNKS[chunk])
    assert not raw(clean)


def test_a_megabyte_costs_what_its_beginning_costs() -> None:
    assert len(safe_text(LONG)) <= 4_000


def test_rows_hold_none_of_it(poisoned: Home) -> None:
    from workbench.store import Reader

    reader = Reader.open(poisoned.database)
    events = reader.events(limit=1000)
    assert any("evil" in event.text for event in events)
    for event in events:
        assert not raw(event.text.replace("\t", ""))
        assert len(event.text) <= 4_000
    for sample in reader.samples(2):
        assert not raw(sample.question + sample.expected + sample.answer)
    trial = reader.trial(2)
    assert trial.state is State.FAILED
    assert not raw(trial.reason + trial.hint + trial.phase)
    assert not raw("".join(metric_names(reader, 2)))
    reader.close()


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_commands_print_none_of_it(
    poisoned: Home, command: list[str], capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    assert main(command) == 0
    out, err = capfdbinary.readouterr()
    assert not raw(out.decode() + err.decode())
    assert len(out) < 200_000


@pytest.mark.parametrize("command", [["show", "2"], ["logs", "2"]], ids=" ".join)
def test_a_terminal_gets_no_sequence_but_our_colours(poisoned: Home, command: list[str]) -> None:
    ours, theirs = pty.openpty()
    child = subprocess.Popen(
        [sys.executable, "-m", "workbench", *command],
        env={**os.environ, "TERM": "xterm-256color", "NO_COLOR": ""},
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    out = b""
    with suppress(OSError):  # its end
        while some := os.read(ours, 1 << 16):
            out += some
    os.close(ours)
    assert child.wait() == 0
    said = re.sub(r"\x1b\[(?:0|1|2|3[1-6])m", "", out.decode())
    assert said != out.decode()
    assert not raw(said.replace("\r\n", "\n"))


@pytest.mark.parametrize("command", [c for c in COMMANDS if c[0] != "logs"], ids=" ".join)
def test_json_keeps_it_asleep(
    poisoned: Home, command: list[str], capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    assert main([*command, "--json"]) == 0
    out, _ = capfdbinary.readouterr()
    assert not raw(out.decode("ascii"))
    json.loads(out)


@pytest.mark.parametrize(
    "command",
    [["ls", HOSTILE], ["board", HOSTILE], ["run", HOSTILE], ["plan", HOSTILE], [HOSTILE]],
    ids=["ls", "board", "run", "plan", "command"],
)
def test_errors_repeat_none_of_it(
    poisoned: Home, command: list[str], capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    assert main([word.replace("\0", "") for word in command]) != 0
    out, err = capfdbinary.readouterr()
    assert not raw(out.decode(errors="replace") + err.decode(errors="replace"))


async def test_no_screen_shows_any_of_it(poisoned: Home) -> None:
    async with shown(poisoned) as (app, pilot):
        seen = []
        for digit in "123456":
            await press(app, pilot, digit)
            seen.append(text(app))
        await press(app, pilot, "2")
        trials(app).to_key(2)
        await press(app, pilot, "enter")
        seen.append(text(app))
        everything = "\n".join(seen)
        assert "evil" in everything
        assert "[red]x[/]" in everything
        assert not raw(everything)
