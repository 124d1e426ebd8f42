"""Private addresses are told from public ones, and this machine's own are found."""

from __future__ import annotations

from pathlib import Path

import pytest

from workbench.cluster.addresses import is_ours, is_private, parse_address, public_addresses
from workbench.errors import UsageError

ROUTES = """Local:
  +-- 0.0.0.0/0 3 0 5
     |-- 192.168.1.7
        /32 host LOCAL
     |-- 192.168.1.255
        /32 link BROADCAST
     |-- 203.0.113.9
        /32 host LOCAL
     |-- 127.0.0.1
        /32 host LOCAL
"""


@pytest.mark.parametrize(
    ("address", "private"),
    [
        ("127.0.0.1", True),
        ("10.1.2.3", True),
        ("172.31.0.1", True),
        ("172.32.0.1", False),
        ("192.168.1.20", True),
        ("169.254.3.4", True),
        ("100.64.0.1", True),
        ("100.127.255.254", True),
        ("100.128.0.1", False),
        ("203.0.113.9", False),
        ("8.8.8.8", False),
    ],
)
def test_private_addresses_are_those_that_no_router_passes_on(address: str, private: bool) -> None:
    assert is_private(parse_address(address)) is private


@pytest.mark.parametrize("text", ["box", "fe80::1", "10.0.0", "10.0.0.1:80", ""])
def test_a_name_is_no_address(text: str) -> None:
    with pytest.raises(UsageError, match="no IPv4 address"):
        parse_address(text)


def test_the_public_addresses_are_read_from_the_kernels_table(tmp_path: Path) -> None:
    (tmp_path / "proc" / "net").mkdir(parents=True)
    (tmp_path / "proc" / "net" / "fib_trie").write_text(ROUTES)
    assert public_addresses(tmp_path) == ["203.0.113.9"]
    assert public_addresses(tmp_path / "elsewhere") == []


def test_an_address_of_another_machine_is_not_ours() -> None:
    assert is_ours(parse_address("127.0.0.1"))
    assert not is_ours(parse_address("192.0.2.1"))
