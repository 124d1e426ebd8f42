"""Several hosts on one machine: network namespaces joined by a bridge, each with a home of its own.

They need root and iproute2. Everything is removed at the end: processes, namespaces, the bridge.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.waiting import wait_for
from workbench.home import Home
from workbench.machine.processes import end_unit, find_home_units
from workbench.service import Service

LIMIT_S = 240.0
ETH_P_ALL = 3  # linux/if_ether.h
SIGNS = {b"PRI * HTTP/2.0": "HTTP/2", b"GET ": "HTTP", b"POST ": "HTTP", b"\x16\x03": "TLS"}
"""The first bytes of a connection, with the name of its protocol."""
_MADE = 0


@dataclass(frozen=True)
class Host:
    """One network namespace with an address and a home."""

    namespace: str
    link: str
    """The bridge's end of its cable."""
    address: str
    home: Home
    cards: str = "cpu:4GiB,cpu:4GiB"

    @property
    def service(self) -> Service:
        return Service(self.home)

    def command(self, *words: str) -> list[str]:
        return ["ip", "netns", "exec", self.namespace, *words]

    def run(self, *words: str, typed: str = "", ok: bool = True, **env: str) -> str:
        """Run a command of a person on this host; return all that it printed."""
        done = subprocess.run(
            self.command(sys.executable, "-m", "workbench", *words),
            env={
                **os.environ,
                "WORKBENCH_HOME": str(self.home.root),
                "WORKBENCH_CARDS": self.cards,
                **env,
            },
            input=typed,
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )
        said = done.stdout + done.stderr
        assert (done.returncode == 0) is ok, (words, done.returncode, said)
        return said

    def python(self, *words: str) -> str:
        """Run Python on this host; return what it printed."""
        command = self.command(sys.executable, *words)
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=True)
        return done.stdout

    @property
    def bridge(self) -> str:
        """The bridge that joins the hosts."""
        return self.namespace.rpartition("-")[0]

    def add_address(self, address: str, device: str = "eth0") -> None:
        """Give the host another address."""
        _ip("-n", self.namespace, "address", "add", f"{address}/24", "dev", device)

    def cut(self) -> None:
        """Pull the cable."""
        _ip("link", "set", self.link, "down")

    def mend(self) -> None:
        """Plug the cable in again."""
        _ip("link", "set", self.link, "up")

    def pids(self) -> list[int]:
        return [int(pid) for pid in _ip("netns", "pids", self.namespace).split()]

    def kill_all(self) -> None:
        """Kill every process of the host, as a power cut does."""

        def none_left() -> bool:
            for pid in self.pids():
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            return not self.pids()

        wait_for(none_left, f"{self.namespace} is empty")


@contextmanager
def hosts(folder: Path, count: int) -> Iterator[list[Host]]:
    """Yield hosts on one network; skip the test, and say why, where there can be none."""
    if shutil.which("ip") is None or os.getuid() != 0:
        pytest.skip("network namespaces need root and iproute2")
    global _MADE
    _MADE += 1
    tag = f"wb{os.getpid() % 100_000}{chr(96 + _MADE)}"
    net = f"10.77.{os.getpid() % 250}"
    made: list[Host] = []
    try:
        _ip("link", "add", tag, "type", "bridge")
        _ip("link", "set", tag, "up")
        for number in range(1, count + 1):
            host = Host(
                f"{tag}-{number}",
                f"{tag}v{number}",
                f"{net}.{number}",
                Home(folder / f"host-{number}").make(),
            )
            _ip("netns", "add", host.namespace)
            made.append(host)
            names = (host.link, "type", "veth", "peer", "name", "eth0", "netns", host.namespace)
            _ip("link", "add", *names)
            _ip("link", "set", host.link, "master", tag, "up")
            inside = ("-n", host.namespace)
            _ip(*inside, "address", "add", f"{host.address}/24", "dev", "eth0")
            for device in ("eth0", "lo"):
                _ip(*inside, "link", "set", device, "up")
    except subprocess.CalledProcessError as refused:
        _remove(tag, made)
        pytest.skip(f"network namespaces cannot be made: {refused.stderr.strip()}")
    try:
        yield made
    finally:
        _remove(tag, made)


@contextmanager
def delayed(host: Host, delay_s: float) -> Iterator[None]:
    """Let everything that the host sends or gets take `delay_s` seconds longer, meanwhile.

    The kernel's own `netem` is missing in many kernels, so a process passes the frames.
    """
    bridge, detour = host.bridge, f"{host.link}d"
    taps = [f"{host.link}a", f"{host.link}b"]
    script = str(Path(__file__).with_name("delaying_line.py"))
    line = subprocess.Popen([sys.executable, script, *taps, str(delay_s)])
    try:
        wait_for(lambda: all(Path(f"/sys/class/net/{tap}").exists() for tap in taps), "the line")
        _ip("link", "add", detour, "type", "bridge")
        for name, master in ((taps[0], detour), (taps[1], bridge)):
            _ip("link", "set", name, "master", master, "up")
        _ip("link", "set", detour, "up")
        _ip("link", "set", host.link, "master", detour)
        yield
    finally:
        _ip("link", "set", host.link, "master", bridge)
        line.terminate()
        line.wait()
        _ip("link", "delete", detour)


@contextmanager
def overheard(host: Host) -> Iterator[Counter[str]]:
    """Count which protocols begin in the TCP segments to and from the host, meanwhile."""
    heard: Counter[str] = Counter()
    over = threading.Event()
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL)) as tap:
        tap.bind((host.link, 0))
        tap.settimeout(0.1)
        thread = threading.Thread(target=_listen, args=(tap, over, heard))
        thread.start()
        try:
            yield heard
        finally:
            over.set()
            thread.join()


def _listen(tap: socket.socket, over: threading.Event, heard: Counter[str]) -> None:
    while not over.is_set():
        try:
            frame = tap.recv(1 << 16)
        except TimeoutError:
            continue
        if frame[12:14] == b"\x08\x00" and frame[23] == socket.IPPROTO_TCP:
            segment = frame[14 + 4 * (frame[14] & 15) :]
            payload = segment[4 * (segment[12] >> 4) :]
            heard.update(name for sign, name in SIGNS.items() if payload.startswith(sign))


@contextmanager
def thin(host: Host, rate: str) -> Iterator[None]:
    """Let no more than `rate` (as of `tc`, `4mbit`) go to the host and from it, meanwhile."""
    ends = (["tc", "qdisc"], host.link), (host.command("tc", "qdisc"), "eth0")
    shape = ("root", "tbf", "rate", rate, "burst", "32kbit", "latency", "400ms")
    for command, device in ends:
        subprocess.run([*command, "add", "dev", device, *shape], check=True)
    try:
        yield
    finally:
        for command, device in ends:
            subprocess.run([*command, "del", "dev", device, "root"], check=True)


def _remove(bridge: str, made: list[Host]) -> None:
    for host in made:
        host.kill_all()
        for unit in find_home_units(host.home.root):
            end_unit(unit)
        with suppress(subprocess.CalledProcessError):
            _ip("link", "delete", host.link)  # the kernel may take its time for the namespace
        _ip("netns", "delete", host.namespace)
    with suppress(subprocess.CalledProcessError):
        _ip("link", "delete", bridge)


def _ip(*words: str) -> str:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=True)
    return done.stdout
