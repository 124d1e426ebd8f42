"""A cluster with Ray's TLS: who joins without a certificate, and a head that moves."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.clusters import LIMIT_S, Three
from tests.support.namespaces import hosts, overheard
from tests.support.waiting import wait_for
from workbench.cluster.certificates import invitation_file, remove_certificates
from workbench.cluster.settings import read_joined, read_state

pytestmark = [pytest.mark.fault, pytest.mark.slow]


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Three]:
    folder = tmp_path_factory.mktemp("cluster")
    with hosts(folder, 3) as made:
        cluster = Three(made, folder)
        said = cluster.head.run("cluster", "up", cluster.head.address, "--tls")
        assert "Ray encrypts" in said
        yield cluster


def _invite(three: Three) -> tuple[str, ...]:
    return ("--token-file", str(invitation_file(three.head.home)))


def test_a_box_trains_with_a_certificate_and_joins_not_without(three: Three) -> None:
    join = ("cluster", "join", three.head.address, "--name")
    token = ("--token-file", str(three.head.home.token))
    assert "uses certificates" in three.two.run(*join, "two", *token, ok=False)
    with overheard(three.two) as heard:
        three.two.run(*join, "two", *_invite(three))
        three.until_up("two")
        three.run_long(4)
        three.until_committed("two:cpu-0", "two:cpu-1")
        three.end_all()
    assert heard["TLS"] > 10
    assert heard.keys() == {"TLS"}
    three.three.run(*join, "three", *_invite(three))
    three.until_up("two", "three")
    three.run_long(6)
    three.until_committed("two:cpu-0", "three:cpu-0")
    three.end_all()


def test_a_box_that_is_added_over_ssh_gets_its_certificate(three: Three, tmp_path: Path) -> None:
    with three.ssh_to(three.three, tmp_path) as (host, path):
        three.three.run("cluster", "leave")
        three.head.run("cluster", "add", host, "--name", "three", PATH=path)
    three.until_up("three")


def test_a_node_without_a_certificate_does_not_get_in(three: Three) -> None:
    """Its certificates are taken away, and it has the right token."""
    remove_certificates(three.three.home)
    three.three.kill_all()
    wait_for(lambda: three.boxes()["three"] == "lost", "the box is given up", LIMIT_S)
    join = ("cluster", "join", three.head.address)
    assert "not joined within" in three.three.run(*join, ok=False)
    assert read_state(three.three.home)["state"] != "joined"
    assert three.boxes()["three"] == "lost"
    three.three.run(*join, *_invite(three))
    three.until_up("three")


def test_a_head_that_moves_is_joined_at_its_new_address(three: Three) -> None:
    three.run_long(6)
    before = three.until_committed("two:cpu-0")["two:cpu-0"]
    moved = f"{three.head.address}1"
    three.head.add_address(moved)
    said = three.head.run("cluster", "up", moved, "--tls")
    assert f"boxes that joined at {three.head.address}: add them again" in said
    refused = three.two.run("cluster", "join", moved, ok=False)
    assert f"in the cluster of {three.head.address}" in refused
    for box in (three.two, three.three):
        box.run("cluster", "join", moved, *_invite(three))
    three.until_up("two", "three")
    joined = read_joined(three.two.home)
    assert joined is not None
    assert (joined.head, joined.box) == (moved, "two")
    three.until_committed("two:cpu-0")
    assert three.attempts(before.trial)[1].from_step >= (before.checkpoint_step or 0)


def test_a_public_address_of_the_machine_is_refused_unless_insisted_on(three: Three) -> None:
    three.three.run("cluster", "leave")
    three.three.add_address("203.0.113.9", "lo")
    for address in ("203.0.113.9", three.three.address):
        said = three.three.run("cluster", "up", address, ok=False)
        assert "203.0.113.9 is a public address of this machine" in said
    three.three.run("cluster", "up", "203.0.113.9", "--i-know")
    three.three.run("cluster", "leave")
    three.three.run("engine", "stop")
