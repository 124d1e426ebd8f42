"""`workbench cluster add` over a real sshd on loopback: its checks, its steps and what it refuses.

The join itself needs a second machine: tests/faults/test_cluster.py.
"""

from __future__ import annotations

import os
import socketserver
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.conftest import Workbench
from tests.support.ssh_server import HOST, ssh_server
from workbench.cli.machine.ssh import Conversation, split_host
from workbench.cluster.certificates import make_certificates
from workbench.cluster.ray_commands import HEAD_PORTS
from workbench.cluster.settings import (
    HeadSettings,
    JoinedSettings,
    boxes_file,
    read_head,
    write_json,
    write_settings,
)
from workbench.cluster.versions import installed_versions
from workbench.errors import UsageError, WorkbenchError
from workbench.home import Home
from workbench.machine.locks import Lock

TOKEN = "5" * 64
HEAD = f"127.{os.getpid() // 250 % 250}.{os.getpid() % 250}.9"
"""An address of loopback that no test beside this one takes."""


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with `ssh` for a machine of another home, `home`, and a command `workbench`."""
    folder = tmp_path_factory.mktemp("other")
    command = folder / "workbench"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m workbench "$@"\n')
    command.chmod(0o755)
    there = {
        "WORKBENCH_HOME": str(folder / "home"),
        "WORKBENCH_CARDS": "cpu:4GiB",
        "PYTHONPATH": f"{folder / 'packages'}:{Path(__file__).parents[2]}",
    }
    with ssh_server(folder / "ssh", there):
        yield folder


@pytest.fixture
def box(other: Path, home: Home, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of that machine with its command, for a head whose Ray seems to listen."""
    monkeypatch.setenv("PATH", f"{other / 'ssh'}:{os.environ['PATH']}")
    write_settings(home.make(), HeadSettings(address=HEAD))
    home.token.write_text(TOKEN)
    return f"{HOST}:{other / 'workbench'}"


@pytest.fixture
def listener(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Something that is no Ray on the head's port: it closes every connection."""
    monkeypatch.setattr(socketserver.TCPServer, "allow_reuse_address", True)
    with socketserver.TCPServer((HEAD, HEAD_PORTS[0]), socketserver.BaseRequestHandler) as at:
        thread = threading.Thread(target=at.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield
        at.shutdown()
        thread.join()


def test_it_checks_the_machine_and_says_what_keeps_it_out(
    workbench: Workbench, box: str, other: Path
) -> None:
    info = other / "packages" / "peft-0.0.1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: peft\nVersion: 0.0.1\n")
    answer = workbench("cluster", "add", box)
    assert answer.code == 1
    steps = [line[6:].partition(":")[0] for line in answer.out.splitlines()]
    assert "fail  versions: peft is 0.0.1 there" in answer.out
    assert f"-m pip install peft=={installed_versions()['peft']}" in answer.out
    assert {"python", "home", "disk", "driver", "temp folder"} < set(steps)
    assert "ok    cards: CPU card" in answer.out
    assert "ok    clock: agrees" in answer.out
    assert f"fail  box → head: it does not reach this head at {HEAD}" in answer.out
    assert "ok    head → box: 127.0.0.1 answers" in answer.out
    assert f"{HOST} has not joined:" in answer.err
    assert not (other / "home" / "cluster").exists()
    (info / "METADATA").unlink()
    info.rmdir()


def test_the_token_travels_on_stdin_alone(
    workbench: Workbench, box: str, other: Path, home: Home, listener: None
) -> None:
    make_certificates(home, HEAD)
    answer = workbench("cluster", "add", box, "--name", "two", "--allow-skew")
    assert f"ok    box → head: {HEAD}:20100 answers" in answer.out
    # Here the other machine has the invitation, and finds that the listener wants none.
    assert answer.code == 1
    assert "this failed on attic: cluster join" in answer.err
    asked = (other / "ssh" / "asked").read_text()
    assert f"cluster join {HEAD} --token-file /dev/stdin --name two" in asked
    assert TOKEN not in asked
    assert "PRIVATE KEY" not in asked
    assert not (other / "home" / "token").exists()
    head = read_head(home)
    assert head is not None
    assert list(head.allow_skew) == ["two"]


def test_a_machine_with_an_engine_or_in_another_cluster_is_left_alone(
    workbench: Workbench, box: str, other: Path, listener: None
) -> None:
    there = Home(other / "home").make()
    with_engine = Lock(there.keeper_lock)
    assert with_engine.take()
    assert "an engine runs on attic" in workbench("cluster", "add", box).err
    with_engine.release()
    write_settings(there, JoinedSettings(head="10.9.9.9", address="10.9.9.8", box="two"))
    assert "is a box of the cluster at 10.9.9.9" in workbench("cluster", "add", box).err


def test_a_machine_without_the_command_says_what_to_install(workbench: Workbench, box: str) -> None:
    answer = workbench("cluster", "add", f"{HOST}:/no/such/workbench")
    here = installed_versions()
    assert answer.code == 2
    assert "attic does not find /no/such/workbench; its python3 is 3." in answer.err
    assert f"install qlora-workbench {here['qlora-workbench']} there with Python" in answer.err


def test_a_machine_that_ssh_does_not_reach_is_no_box(workbench: Workbench, box: str) -> None:
    assert (
        "no connection to elsewhere.invalid" in workbench("cluster", "add", "elsewhere.invalid").err
    )


@pytest.mark.parametrize(
    "host", ["-oProxyCommand=id", "me@-oProxyCommand=id", "-F@attic", "me@", "a b", "me@a\x1b[31m"]
)
def test_a_host_that_ssh_may_take_for_an_option_is_none(host: str) -> None:
    with pytest.raises(UsageError, match="is no host"):
        split_host(host, "cluster add")


def test_a_connection_that_ends_between_two_answers_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ssh").write_text("#!/bin/sh\nread asked; echo '{}'\n")
    (tmp_path / "ssh").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with Conversation("attic", ["workbench"]) as talk:
        assert talk.ask("facts") == {}
        with pytest.raises(UsageError, match="the connection to attic has ended"):
            talk.clock_skew_s()


def test_a_machine_that_stops_answering_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ssh").write_text("#!/bin/sh\nexec tail -f /dev/null\n")
    (tmp_path / "ssh").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with (
        pytest.raises(WorkbenchError, match="attic has not answered within 1 s"),
        Conversation("attic", ["workbench"], answer_s=0.6) as talk,
    ):
        talk.ask("facts")


def test_a_list_that_the_engine_no_longer_writes_is_old(
    workbench: Workbench, box: str, home: Home, listener: None
) -> None:
    write_json(boxes_file(home), {"at_utc": 5.0, "boxes": []})
    answer = workbench("cluster", "doctor")
    assert "fail  engine: does not answer: what follows is old" in answer.out
    assert answer.code == 1
