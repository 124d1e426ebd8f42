"""`workbench cluster`: the engine of one machine over the cards of several."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from getpass import getpass
from pathlib import Path
from typing import Annotated

import typer

from workbench.cli.machine import cluster_boxes, cluster_list
from workbench.cli.machine.engine import START_S, STOP_S
from workbench.cli.tables import print_answer, print_note
from workbench.cluster import addresses, certificates, ray_commands, settings
from workbench.cluster.settings import HeadSettings, JoinedSettings
from workbench.errors import EngineError, UsageError, WorkbenchError
from workbench.home import Home
from workbench.machine.cards import parse_bytes
from workbench.machine.files import write_durably
from workbench.machine.locks import lock_holder
from workbench.service import Service
from workbench.text import safe_line

JOIN_S = 60.0
"""Seconds in which a box that joins must have been accepted by the head."""
LEAVE_S = 30.0
"""Seconds in which a box's processes must have ended."""
READABLE = (
    "Ray does not encrypt: who can read this network can read rows, weights and the token. Use a "
    "VPN (WireGuard, Tailscale), or --tls, where you do not trust it"
)
app = typer.Typer(help="Use the cards of several machines together.", no_args_is_help=True)


@app.command("up")
def cluster_up_command(
    address: Annotated[
        str, typer.Argument(metavar="ADDRESS", help="This machine's address for the other ones.")
    ],
    i_know: Annotated[
        bool, typer.Option("--i-know", help="Allow a public address: Ray's ports face it.")
    ] = False,
    limit: Annotated[
        str, typer.Option(help="Most bytes a second to or from each box, e.g. 50MiB.")
    ] = "",
    tls: Annotated[
        bool, typer.Option("--tls", help="Encrypt by certificates, made here by openssl.")
    ] = False,
) -> None:
    """Make this machine the head of a cluster. An engine that runs is started again."""
    home = Service().home.make()
    if settings.read_joined(home) is not None:
        raise UsageError(
            "this machine is a box of another head", hint="first: workbench cluster leave"
        )
    _check_address(address, i_know=i_know)
    most = parse_bytes(limit) if limit else 0
    if tls:
        certificates.require_openssl()
    was_running, before = _stop_engine(), settings.read_head(home)
    try:
        _refuse_taken_ports(address)
        _write_head(home, HeadSettings(address=address, limit_bytes_per_s=most), before, tls=tls)
    except BaseException:
        if was_running:
            Service().start_engine()
        raise
    _start_engine(Service())
    _wait_for_head(home, address)
    print_note(_privacy(address, tls=tls))
    if was_running:
        print_note("the engine was started again; what ran goes on from its checkpoint")
    if before is not None and before.address != address:
        print_note(f"boxes that joined at {before.address}: add them again, or give there")
        print_note(f"  workbench cluster join {address} --token-file FILE")
    print_answer(f"the cluster is up at {address}, ports {_ports()}")
    file = certificates.invitation_file(home) if tls else home.token
    what = "token and certificates are" if tls else "token is"
    print_answer(f"its {what} in {safe_line(file)}")
    print_answer("over ssh, from here: workbench cluster add USER@BOX")
    print_answer(f"or on each other machine: workbench cluster join {address}")


def _write_head(home: Home, head: HeadSettings, before: HeadSettings | None, *, tls: bool) -> None:
    """Write token, settings, and what boxes need of certificates or none.

    The engine must not run: Ray's processes would take one another's certificates for false.
    """
    if not home.token.exists():
        write_durably(home.token, secrets.token_hex(32).encode())
    if tls:
        certificates.make_certificates(home, head.address)
        certificates.write_invitation(home)
    else:
        certificates.remove_certificates(home)
    settings.write_settings(home, replace(head, allow_skew=before.allow_skew if before else ()))


def _refuse_taken_ports(address: str) -> None:
    """Raise EngineError where something answers on a head's port although no engine runs here."""
    Service().end_leftovers()
    if port := ray_commands.find_head_port(address):
        raise EngineError(
            f"another program listens on port {port} of {address}",
            hint="does another user of this machine have a cluster? `ss -ltnp` shows programs",
        )


def _privacy(address: str, *, tls: bool) -> str:
    """Return who can read what Ray sends."""
    if tls:
        return "Ray encrypts, and takes machines with a certificate of this cluster alone"
    return "the VPN encrypts what Ray sends" if _is_encrypted(address) else READABLE


def _check_address(text: str, *, i_know: bool) -> None:
    """Raise UsageError for an address that is not this machine's, or that may be public."""
    address = addresses.parse_address(text)
    if address.is_unspecified:
        raise UsageError("0.0.0.0 is every address", hint="name the one the other machines reach")
    if not addresses.is_ours(address):
        raise UsageError(
            f"{text} is no address of this machine", hint="`ip -brief address` lists them"
        )
    public = set(addresses.public_addresses())
    if not addresses.is_private(address):
        public.add(text)
    if public and not i_know:
        raise UsageError(
            f"{', '.join(sorted(public))} is a public address of this machine, and Ray listens on "
            "all of them",
            hint=f"close ports {_ports()} there by a firewall, then add --i-know",
        )


def _is_encrypted(text: str) -> bool:
    return addresses.parse_address(text) in addresses.ENCRYPTED


def _ports() -> str:
    return f"{ray_commands.ALL_PORTS[0]}-{ray_commands.ALL_PORTS[1]}"


@app.command("join")
def cluster_join_command(
    head: Annotated[
        str, typer.Argument(metavar="HEAD", help="The head's address, as `cluster up` printed it.")
    ],
    token_file: Annotated[
        Path | None,
        typer.Option(
            help="A copy of the head's file `token`, or `invitation`; else it is asked for."
        ),
    ] = None,
    name: Annotated[str, typer.Option(help="This box's name; else the machine's.")] = "",
    address: Annotated[str, typer.Option(help="This box's address; else the one it uses.")] = "",
) -> None:
    """Give this machine's cards to a head. Given again, it connects a box that was stopped."""
    service = Service()
    home = service.home.make()
    joined = settings.read_joined(home)
    _refuse_joining(home, joined, head)
    box = settings.check_name(name or (joined.box if joined else _host_name()))
    if address:
        addresses.parse_address(address)
    given = _read_token(token_file) if joined is None or token_file is not None else ""
    if joined is not None:
        _refuse_other_cluster(home, joined, head, given)
        if not given:
            _connect(service, joined)
            return
    _check_head(head, given)
    own = address or addresses.address_towards(head)
    wanted = JoinedSettings(head=head, address=own, box=box, is_fixed=bool(address))
    if wanted != joined or given.split() != certificates.invitation(home).split():
        _end_box(service)
        certificates.accept_invitation(home, given, own)
        settings.write_settings(home, wanted)
    try:
        _connect(service, wanted)
    except BaseException:
        if joined is None:
            _leave(service)
        raise
    print_note("`workbench service install` connects it again after a reboot")


def _refuse_joining(home: Home, joined: JoinedSettings | None, head: str) -> None:
    """Raise UsageError where this machine has an engine or a cluster of its own."""
    addresses.parse_address(head)
    if settings.read_head(home) is not None:
        hint = "first: workbench cluster leave"
        raise UsageError("this machine is a cluster's head", hint=hint)
    if joined is None and lock_holder(home.keeper_lock) is not None:
        raise UsageError("an engine runs here", hint="first: workbench engine stop")


def _refuse_other_cluster(home: Home, joined: JoinedSettings, head: str, given: str) -> None:
    """Raise UsageError for another cluster; one of the same token has only another address now."""
    if joined.head != head and given.split()[:1] != home.token.read_text().split():
        raise UsageError(
            f"this machine is in the cluster of {joined.head}",
            hint="first: workbench cluster leave; or, if that head has moved, add --token-file",
        )


def _check_head(head: str, given: str) -> None:
    """Raise an error where no head answers, or one that wants another kind of secret."""
    port = ray_commands.find_head_port(head, 3.0)
    if port is None:
        raise EngineError(
            f"nothing answers at {head}, ports {ray_commands.HEAD_PORTS}",
            hint="is the cluster up there, and does a firewall let this machine through?",
        )
    has_certificates = "-----BEGIN" in given
    if certificates.asks_for_certificates(head, port) != has_certificates:
        file = "token" if has_certificates else "cluster/invitation"
        raise UsageError(
            f"the cluster of {head} uses {'no ' if has_certificates else ''}certificates",
            hint=f"give --token-file with a copy of the file {file} of the head's home",
        )


def _host_name() -> str:
    return socket.gethostname().partition(".")[0]


def _connect(service: Service, joined: JoinedSettings) -> None:
    """Start the box's keeper unless it runs, and wait until the head has taken the box."""
    home = service.home
    home.stopped.unlink(missing_ok=True)
    if lock_holder(home.keeper_lock) is None:
        settings.note_state(home, "joining")
        service.start_keeper()
    _wait_joined(home)
    print_answer(f"{joined.box} ({joined.address}) has joined the cluster at {joined.head}")


def _read_token(file: Path | None) -> str:
    """Return the token from a file, from a prompt, or from stdin."""
    try:
        if file is not None:
            text = file.read_text()
        else:
            text = getpass("token: ") if sys.stdin.isatty() else sys.stdin.readline()
    except (OSError, UnicodeDecodeError) as unread:
        raise UsageError(f"{file} cannot be read", hint="copy it from the head") from unread
    if not text.strip():
        raise UsageError("there is no token", hint="--token-file, or the token on stdin")
    return text.strip()


def _wait_joined(home: Home) -> None:
    answered = _wait_until(
        lambda: settings.read_state(home).get("state") in ("joined", "refused"), JOIN_S
    )
    state = settings.read_state(home)
    if not answered:
        raise EngineError(
            f"not joined within {JOIN_S:.0f} s: {state.get('text') or 'no answer'}",
            hint=f"look into {home.logs}/node.log",
        )
    if state["state"] == "refused":
        raise EngineError(
            f"the head did not take this machine: {state['text']}",
            hint=f"{home.logs}/node.log has Ray's own words",
        )


@app.command("leave")
def cluster_leave_command() -> None:
    """Take this machine out of the cluster. On the head, end the cluster."""
    service = Service()
    if settings.read_joined(service.home) is not None:
        _leave(service)
        print_answer("this machine has left; its trials go on elsewhere from their checkpoints")
        return
    if settings.read_head(service.home) is None:
        raise UsageError("this machine is in no cluster", hint="workbench cluster up ADDRESS")
    was_running = _stop_engine()
    settings.remove_settings(service.home)
    service.home.token.unlink(missing_ok=True)  # the boxes have a copy
    if was_running:
        _start_engine(Service())
    print_answer("the cluster has ended; the engine uses this machine alone")


def _leave(service: Service) -> None:
    """End this box's processes, and forget the head with the rows and weights that it sent."""
    _end_box(service)
    settings.remove_settings(service.home)
    shutil.rmtree(settings.work_folder(service.home), ignore_errors=True)
    service.home.token.unlink(missing_ok=True)


def _end_box(service: Service) -> None:
    """End this box's keeper and whatever it started."""
    lock = service.home.keeper_lock
    if keeper := lock_holder(lock):
        with suppress(ProcessLookupError):
            os.kill(keeper, signal.SIGTERM)
    _wait_until(lambda: lock_holder(lock) is None, LEAVE_S)
    service.end_leftovers()
    (service.home.root / "cluster" / "state.json").unlink(missing_ok=True)


def _wait_until(fact: Callable[[], bool], limit_s: float) -> bool:
    """Wait until `fact` is true; return False where it is not after `limit_s` seconds."""
    until = time.monotonic() + limit_s
    while not fact():
        if time.monotonic() > until:
            return False
        time.sleep(0.05)
    return True


def _stop_engine() -> bool:
    """Stop the engine if it runs, with checkpoints; return whether it would have gone on."""
    service = Service()
    if service.engine().state in ("down", "stopped"):
        return False
    goes_on = not service.stopping()
    print_note("stopping the engine: what runs checkpoints first")
    service.stop_engine()
    service.wait_for_engine(running=False, timeout_s=STOP_S)
    return goes_on


def _wait_for_head(home: Home, address: str) -> None:
    """Wait until boxes can join: the loop is up some seconds before Ray."""
    if not _wait_until(lambda: ray_commands.find_head_port(address) is not None, START_S):
        raise EngineError(
            f"Ray does not answer at {address} after {START_S:.0f} s",
            hint=f"look into {home.logs}/head.log and keeper.log",
        )


def _start_engine(service: Service) -> None:
    try:
        service.start_engine()
        service.wait_for_engine(running=True, timeout_s=START_S)
    except WorkbenchError as refused:
        raise EngineError(
            f"the cluster is set up, and the engine does not start: {refused.what}",
            hint=refused.hint,
        ) from refused


app.command("ls")(cluster_list.cluster_ls_command)
app.command("add")(cluster_boxes.cluster_add_command)
app.command("drain")(cluster_boxes.cluster_drain_command)
app.command("undrain")(cluster_boxes.cluster_undrain_command)
app.command("allow-skew")(cluster_boxes.cluster_allow_skew_command)
app.command("doctor")(cluster_boxes.cluster_doctor_command)
app.command("probe", hidden=True)(cluster_boxes.cluster_probe_command)
