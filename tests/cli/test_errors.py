"""Every error is words, a mend and an exit code."""

from __future__ import annotations

import errno
import io
import re
from pathlib import Path

import pytest

from tests.cli.conftest import Workbench
from workbench import __version__, errors
from workbench.cli.app import _MEANT as MEANT
from workbench.cli.confirmation import confirm_name
from workbench.cli.errors import INTERRUPTED, report_error
from workbench.errors import DoesNotFit, UsageError
from workbench.home import Home

COMMANDS = (
    *("run", "ls", "show", "logs", "stop", "kill", "pause", "resume", "board", "demo", "train"),
    *("merge", "engine", "recipes", "schema", "doctor", "cards"),
    *("clone", "extend", "add", "move", "order", "priority", "parallel", "hold", "release"),
    *("drain", "undrain", "watch"),
)


def test_the_version_is_printed(workbench: Workbench) -> None:
    said = workbench("--version")
    assert (said.code, said.out) == (0, f"workbench {__version__}\n")


@pytest.mark.parametrize(
    "argv",
    [["nonsense"], ["run"], ["show", "seven"], ["ls", "--jsn"], ["merge", "1"], ["recipes", "x"]],
    ids=" ".join,
)
def test_usage_errors_are_exit_code_two(workbench: Workbench, argv: list[str]) -> None:
    said = workbench(*argv)
    assert (said.code, said.out) == (2, "")
    assert "Usage: workbench" in said.err


@pytest.mark.parametrize("command", ["show", "logs", "clone", "chat", "reproduce", "tag"])
def test_a_name_in_place_of_a_trial_is_told_where_numbers_are(
    workbench: Workbench, command: str
) -> None:
    said = workbench(command, "my-chat")
    assert said.code == 2
    assert "my-chat is not the number of a trial; `workbench ls` shows the numbers" in said.err


def test_words_for_other_commands_name_commands_that_exist(workbench: Workbench) -> None:
    for word, hint in MEANT.items():
        for name in re.findall(r"workbench ([a-z]+)", hint):
            assert workbench(name, "--help").code == 0, (word, name)
    said = workbench("cancel")
    assert (said.code, said.out) == (2, "")
    assert "workbench stop TRIAL" in said.err


def test_every_command_has_help(workbench: Workbench) -> None:
    top = workbench("--help").out
    for heading in ("Train:", "Look:", "Steer trials:", "Machine:"):
        assert heading in top
    for command in COMMANDS:
        said = workbench(command, "--help")
        assert said.code == 0
        assert f"Usage: workbench {command}" in said.out


def test_a_wrong_setting_is_told_with_the_nearest(workbench: Workbench) -> None:
    said = workbench("run", "demo", "-s", "lora.rnak=8")
    assert (said.code, said.out) == (2, "")
    assert "error: -s lora.rnak=8: lora.rnak is not a setting. Did you mean lora.rank?" in said.err


def test_all_mistakes_of_a_recipe_are_told_with_their_lines(
    workbench: Workbench, tmp_path: Path
) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text("name: bad\nmodle: {}\nlora: {rank: none}\n")
    said = workbench("run", path)
    assert said.code == 2
    assert f"{path}:2:" in said.err
    assert f"{path}:3:" in said.err


def test_an_unknown_recipe_names_the_nearest(workbench: Workbench) -> None:
    said = workbench("run", "dmo")
    assert said.code == 3
    assert "did you mean demo?" in said.err


@pytest.mark.parametrize("command", [["run", "demo"], ["demo"], ["engine", "stop"]], ids=" ".join)
def test_a_home_that_cannot_be_written_is_told(
    workbench: Workbench, monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    monkeypatch.setenv("WORKBENCH_HOME", "/dev/null/x")
    said = workbench(*command)
    assert said.code == 1
    assert "error: " in said.err
    assert "/dev/null/x" in said.err
    assert "WORKBENCH_HOME" in said.err


def test_a_database_that_is_none_is_told(home: Home, workbench: Workbench) -> None:
    home.make()
    home.database.write_bytes(b"no database, by far" * 100)
    said = workbench("ls")
    assert said.code == 1
    assert "is damaged" in said.err
    assert "workbench repair" in said.err
    assert "Traceback" not in said.err


def test_an_unexpected_error_leaves_its_traceback_in_a_file(
    home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    home.make()
    assert report_error(ZeroDivisionError("oh")) == 1
    err = capsys.readouterr().err
    assert err.startswith("error: unexpected ZeroDivisionError: oh\n  → the traceback is in ")
    (file,) = home.logs.glob("workbench-*.txt")
    assert "ZeroDivisionError" in file.read_text()


def test_debugging_shows_the_traceback(
    home: Home, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORKBENCH_DEBUG", "1")
    assert report_error(ZeroDivisionError("oh")) == 1
    assert "ZeroDivisionError: oh" in capsys.readouterr().err


def test_every_line_of_an_error_and_its_mend_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert report_error(DoesNotFit("one\ntwo\x1b[31m", hint="less")) == 1
    assert capsys.readouterr().err == "error: one\ntwo\n  → less\n"


def test_interruption_is_exit_code_130(capsys: pytest.CaptureFixture[str]) -> None:
    assert report_error(KeyboardInterrupt()) == 130


def test_the_documented_exit_codes_are_those_of_every_error() -> None:
    page = Path(__file__).parents[2] / "docs" / "control.md"
    table = {int(row[1]) for row in re.finditer(r"^\| (\d+) \| ", page.read_text(), re.MULTILINE)}
    kinds, codes = [errors.WorkbenchError], set()
    while kinds:
        kind = kinds.pop()
        kinds += kind.__subclasses__()
        codes.add(kind.exit_code)
    assert table == codes | {0, INTERRUPTED}


def test_a_question_that_nobody_answers_names_the_command_without_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    with pytest.raises(UsageError, match="o/n was not typed; nothing was uploaded") as refused:
        confirm_name("o/n", "push", ["my model", "o/n"], verb="upload to", done="uploaded")
    assert refused.value.hint == "workbench push --yes 'my model' o/n"
    assert capsys.readouterr().err.endswith(": \n")


def test_a_full_disk_is_an_error_with_words(capsys: pytest.CaptureFixture[str]) -> None:
    assert report_error(OSError(errno.ENOSPC, "No space left on device")) == 1
    told = capsys.readouterr().err
    assert told.startswith("error: [Errno 28] No space left on device\n  → free space")


def test_a_folder_in_a_hint_can_be_typed(workbench: Workbench, tmp_path: Path) -> None:
    folder = tmp_path / "my recipes"
    said = workbench("recipes", "copy", "demo", folder / "mine.yaml")
    assert said.code == 3
    assert f"mkdir -p '{folder}'" in said.err
