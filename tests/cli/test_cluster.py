"""`workbench cluster`: what it refuses before anything is started, and what it lists."""

from __future__ import annotations

import os
import time
from pathlib import Path
from socket import create_server

import pytest

from tests.cli.conftest import Workbench
from tests.cli.engines import Engine
from tests.support.tick_contexts import cpu_card
from workbench.cluster.certificates import certificate_environment
from workbench.cluster.ray_commands import HEAD_PORTS, next_head_port
from workbench.cluster.settings import (
    HeadSettings,
    JoinedSettings,
    boxes_file,
    read_head,
    read_joined,
    work_folder,
    write_json,
    write_settings,
)
from workbench.cluster.versions import ALWAYS_EQUAL, installed_versions, version_differences
from workbench.home import Home
from workbench.machine.locks import lock_holder
from workbench.service import Service
from workbench.store import Store
from workbench.store.card_table import record_cards, set_drained


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("8.8.8.8", "no address of this machine"),
        ("my-box", "no IPv4 address"),
        ("0.0.0.0", "name the one"),
        ("192.168.250.251", "no address of this machine"),
    ],
)
def test_a_cluster_is_not_put_on_an_address_that_is_public_or_not_ours(
    workbench: Workbench, home: Home, address: str, said: str
) -> None:
    answer = workbench("cluster", "up", address)
    assert answer.code == 2
    assert said in answer.err
    assert read_head(home) is None


def test_a_cluster_is_not_put_on_ports_that_another_program_has(
    workbench: Workbench, home: Home
) -> None:
    address = f"127.{os.getpid() // 250 % 250}.{os.getpid() % 250}.7"
    with create_server((address, HEAD_PORTS[1])):
        answer = workbench("cluster", "up", address, "--i-know", "--tls")
    assert answer.code == 1
    assert f"another program listens on port 20101 of {address}" in answer.err
    assert read_head(home) is None
    assert not certificate_environment(home)


def test_a_head_whose_address_has_gone_says_so_and_can_be_stopped(
    workbench: Workbench, home: Home
) -> None:
    write_settings(home.make(), HeadSettings(address="192.0.2.77"))  # no machine's (RFC 5737)
    Service().start_engine()
    assert "lacks the address 192.0.2.77 of its cluster" in workbench("engine", "status").out
    assert workbench("engine", "stop").code == 0
    assert lock_holder(home.keeper_lock) is None


def test_joining_where_no_head_answers_leaves_nothing(
    workbench: Workbench, home: Home, tmp_path: Path
) -> None:
    (tmp_path / "token").write_text("secret")
    answer = workbench("cluster", "join", "127.0.0.1", "--token-file", tmp_path / "token")
    assert answer.code == 1
    assert "nothing answers at 127.0.0.1" in answer.err
    assert read_joined(home) is None
    assert not home.token.exists()


@pytest.mark.parametrize("name", ["a:b", "../x", "two words", "-x", "x" * 32, "head"])
def test_a_boxs_name_is_plain(workbench: Workbench, name: str) -> None:
    answer = workbench("cluster", "join", "127.0.0.1", f"--name={name}")
    assert answer.code == 2
    assert "no name for a box" in answer.err


def test_the_address_of_a_box_is_one(workbench: Workbench) -> None:
    answer = workbench("cluster", "join", "127.0.0.1", "--address", "attic.lan")
    assert answer.code == 2
    assert "'attic.lan' is no IPv4 address" in answer.err


@pytest.mark.parametrize("command", ["ls", "leave", "doctor"])
def test_a_machine_by_itself_is_in_no_cluster(workbench: Workbench, command: str) -> None:
    answer = workbench("cluster", command)
    assert answer.code == 2
    assert "in no cluster" in answer.err or "no cluster's head" in answer.err


def test_a_box_has_no_engine_of_its_own(workbench: Workbench, home: Home) -> None:
    write_settings(home.make(), JoinedSettings(head="10.0.0.1", address="10.0.0.2", box="two"))
    for words in (("engine", "start"), ("hold",), ("cluster", "up", "127.0.0.1")):
        answer = workbench(*words)
        assert answer.code != 0, words
        assert "this machine is a box" in answer.err, words
    assert lock_holder(home.keeper_lock) is None
    assert workbench("cluster", "ls", "--json").data["head"] == "10.0.0.1"


def test_a_box_that_leaves_keeps_nothing_of_the_heads(workbench: Workbench, home: Home) -> None:
    write_settings(home.make(), JoinedSettings(head="10.0.0.1", address="10.0.0.2", box="two"))
    home.token.write_text("secret")
    rows = work_folder(home) / "blobs" / "rows"
    rows.parent.mkdir(parents=True)
    rows.write_text("private")
    assert workbench("cluster", "leave").code == 0
    assert read_joined(home) is None
    assert not home.token.exists()
    assert not work_folder(home).exists()


def test_boxes_are_listed_with_what_is_wrong(workbench: Workbench, home: Home) -> None:
    write_settings(home.make(), HeadSettings(address="127.9.9.1"))
    up = {"box": "two", "address": "10.0.0.2", "state": "unusable", "cards": 2, "skew_s": -7.2}
    up |= {"skewed": "", "token_mode": 0o644, "closed_on_head": [], "closed_on_box": [20_103]}
    up |= {"free_bytes": 3 << 30, "problem": "torch is 2.1 there", "to_send_bytes": 4 << 30}
    lost = {"box": "three", "address": "10.0.0.3", "state": "lost"}
    boxes = [{**up, "sent_bytes": 1 << 30}, lost]
    write_json(boxes_file(home), {"at_utc": time.time(), "boxes": boxes})
    answer = workbench("cluster", "ls")
    assert [word in answer.out for word in ("-7 s", "1.0 GiB of 4.0 GiB", "lost")] == [True] * 3
    assert "two: torch is 2.1 there" in answer.out
    assert workbench("cluster", "ls", "--json").data["boxes"][1] == {**lost, "drained": 0}
    doctor = workbench("cluster", "doctor")
    assert doctor.code == 1
    for line in (
        "fail  head: Ray does not answer at 127.9.9.1",
        "fail  two: 10.0.0.2, unusable, 2 cards: torch is 2.1 there",
        "warn  two clock: 7.2 s behind this machine's",
        "fail  two disk: 3.0 GiB free",
        "fail  two token: open to others (mode 644)",
        "fail  two ports: not reached: 20103 there from here",
        "fail  three: is not connected",
    ):
        assert line in doctor.out
    assert doctor.out.count("→") == 7


def test_drained_cards_of_a_box_are_counted(workbench: Workbench, home: Home) -> None:
    write_settings(home.make(), HeadSettings(address="127.9.9.1"))
    two = {"box": "two", "address": "10.0.0.2", "state": "up", "cards": 2}
    write_json(boxes_file(home), {"at_utc": time.time(), "boxes": [two]})
    store = Store(home.database)
    card = {"kind": "cpu", "name": "CPU card", "total_bytes": 1 << 30}
    record_cards(store, [{**card, "uuid": f"two:cpu-{n}"} for n in (0, 1)])
    set_drained(store, "two:cpu-1", True)
    store.close()
    assert "2, 1 drained" in workbench("cluster", "ls").out
    assert workbench("cluster", "ls", "--json").data["boxes"] == [{**two, "drained": 1}]


def test_draining_a_box_prints_its_answer_as_draining_a_card_does(
    workbench: Workbench, home: Home
) -> None:
    write_settings(home.make(), HeadSettings(address="127.9.9.1"))
    engine = Engine(home, [cpu_card(0), {**cpu_card(1), "uuid": "two:cpu-0"}])
    engine.begin()
    try:
        box = workbench("cluster", "drain", "two", "--json").data
        card = workbench("drain", "cpu-0", "--json").data
    finally:
        engine.close()
    assert box["answer"] == "box two takes no more trials; it is free now"
    assert "takes no more trials" in card["answer"]
    assert "text" not in box


def test_versions_may_differ_where_a_person_allows_it(workbench: Workbench, home: Home) -> None:
    write_settings(home.make(), HeadSettings(address="10.0.0.1", limit_bytes_per_s=5))
    assert "takes trials whatever" in workbench("cluster", "allow-skew", "two").out
    assert workbench("cluster", "allow-skew", "three").code == 0
    assert workbench("cluster", "allow-skew", "two", "--undo").code == 0
    head = read_head(home)
    assert head is not None
    assert (list(head.allow_skew), head.limit_bytes_per_s) == (["three"], 5)


def test_a_head_takes_the_port_that_the_last_one_did_not_have() -> None:
    first, second = HEAD_PORTS
    assert [next_head_port(None), next_head_port(first), next_head_port(second)] == [
        first,
        second,
        first,
    ]


def test_versions_that_differ_are_named() -> None:
    here = installed_versions()
    assert version_differences(here, dict(here)) == ""
    there = {**here, "torch": "1.0"}
    assert f"torch is 1.0 there and {here['torch']} on the head" in version_differences(here, there)
    assert version_differences(here, there, ALWAYS_EQUAL) == ""
    there["ray"] = "2.1"
    assert version_differences(here, there, ALWAYS_EQUAL).startswith("ray is 2.1 there")
