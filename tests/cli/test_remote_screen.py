"""`workbench --host`: what ssh is asked for, and what its exit codes become."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.pty_app import COMMAND, PtyApp
from workbench.cli import main
from workbench.cli.machine.remote_screen import open_remote_screen
from workbench.errors import UsageError

SSH = """#!/bin/sh
# Stands for ssh: notes what it was asked for, and runs the command here.
printf '%s\\n' "$@" > "$(dirname "$0")/asked"
for last; do :; done
PATH="$(dirname "$0")/there:$PATH" exec sh -c "$last"
"""


@pytest.fixture
def ssh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a stand-in for ssh; what is in its `there` is on the other machine's PATH."""
    command = tmp_path / "ssh"
    command.write_text(SSH)
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return tmp_path


def _there(ssh: Path, script: str, name: str = "workbench") -> Path:
    file = ssh / "there" / name
    file.parent.mkdir(exist_ok=True)
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(0o755)
    return file


def _asked(ssh: Path) -> list[str]:
    return (ssh / "asked").read_text().splitlines()


def test_the_other_machines_command_runs_in_a_terminal_with_the_options(ssh: Path) -> None:
    _there(ssh, "exit 5")
    assert open_remote_screen("me@box", ["--readonly", "--ascii"]) == 5
    assert _asked(ssh) == ["-t", "--", "me@box", "workbench --readonly --ascii"]


@pytest.mark.parametrize("box", ["me@box", "box", "me@fe80::1%eth0", "me@192.168.1.7"])
def test_a_file_may_follow_the_host(ssh: Path, box: str) -> None:
    file = _there(ssh, "exit 0", "my workbench")
    assert open_remote_screen(f"{box}:{file}", []) == 0
    assert _asked(ssh) == ["-t", "--", box, f"'{file}'"]


def test_a_machine_without_the_command_says_how_to_name_its_file(ssh: Path) -> None:
    with pytest.raises(UsageError, match="me@box does not find workbench") as refused:
        open_remote_screen("me@box", [])
    file = _there(ssh, "exit 0")
    hint = refused.value.hint
    assert hint.startswith("name the file: --host me@box:/")
    assert open_remote_screen(f"me@box:{file}", []) == 0


def test_a_failed_connection_is_an_error_of_its_own(ssh: Path) -> None:
    _there(ssh, "exit 255")
    with pytest.raises(UsageError, match="no connection to me@box"):
        open_remote_screen("me@box", [])


@pytest.mark.parametrize("host", ["-oProxyCommand=date", "me@box rm", "", ":/bin/workbench"])
def test_what_ssh_would_take_for_more_than_a_host_is_refused(ssh: Path, host: str) -> None:
    with pytest.raises(UsageError, match="is no host"):
        open_remote_screen(host, [])
    assert not (ssh / "asked").exists()


def test_without_ssh_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UsageError, match="ssh, which is not installed"):
        open_remote_screen("me@box", [])


@pytest.mark.parametrize("argv", [["--host", "box", "ls"], ["--host", "box", "--serve"]])
def test_it_opens_a_screen_and_nothing_else(
    ssh: Path, argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(argv) == 2
    assert "--host" in capsys.readouterr().err
    assert not (ssh / "asked").exists()


def test_the_command_hands_its_terminal_to_ssh(ssh: Path, tmp_path: Path) -> None:
    _there(ssh, "test -t 0 && test -t 1 && echo a terminal; exit 3")
    code = COMMAND.replace("['workbench']", "['workbench', '--host', 'me@box', '--readonly']")
    with PtyApp(tmp_path / "home", code=code) as app:
        app.read_until(lambda: "a terminal" in app.text())
        assert app.process.wait(20) == 3
    assert _asked(ssh)[-1] == "workbench --readonly"
