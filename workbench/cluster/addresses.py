"""Tell private IPv4 addresses from public ones, and find those of this machine."""

from __future__ import annotations

import ipaddress
import socket
from itertools import pairwise
from pathlib import Path

from workbench.errors import UsageError
from workbench.text import safe_line

PRIVATE = tuple(
    ipaddress.ip_network(net)
    for net in (
        "10.0.0.0/8",
        "172.16.0.0/12",
        "192.168.0.0/16",
        "127.0.0.0/8",
        "169.254.0.0/16",  # link-local
        "100.64.0.0/10",  # shared address space, RFC 6598: Tailscale's addresses
    )
)
ENCRYPTED = ipaddress.ip_network("100.64.0.0/10")
"""Addresses that only a VPN of Tailscale's kind gives to a machine at home."""


def parse_address(text: str) -> ipaddress.IPv4Address:
    """Return the IPv4 address; UsageError for a name, an IPv6 address or anything else."""
    try:
        return ipaddress.IPv4Address(text)
    except ValueError as unread:
        raise UsageError(
            f"{safe_line(text, 60)!r} is no IPv4 address",
            hint="give the address that the other machines reach, like 192.168.1.20",
        ) from unread


def is_private(address: ipaddress.IPv4Address) -> bool:
    """Return True for loopback, link-local, private and shared (100.64.0.0/10) addresses."""
    return any(address in net for net in PRIVATE)


def is_ours(address: ipaddress.IPv4Address) -> bool:
    """Return True where an interface of this machine has the address."""
    with socket.socket() as probe:
        try:
            probe.bind((str(address), 0))
        except OSError:
            return False
    return True


def public_addresses(root: Path = Path("/")) -> list[str]:
    """Return this machine's public IPv4 addresses, from the kernel's table of routes."""
    try:
        lines = (root / "proc/net/fib_trie").read_text().splitlines()
    except OSError:
        return []
    found = set()
    for line, below in pairwise(lines):
        if "/32 host LOCAL" in below and "|--" in line:
            address = ipaddress.IPv4Address(line.split("|--")[1].strip())
            if not is_private(address):
                found.add(str(address))
    return sorted(found)


def address_towards(head: str) -> str:
    """Return the address of this machine from which it reaches `head`; sends nothing.

    Raises OSError where no route leads there.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((head, 9))
        return str(probe.getsockname()[0])
