"""`workbench cluster add|drain|undrain|allow-skew|doctor|probe`: the boxes of a cluster."""

from __future__ import annotations

import hashlib
import shlex
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from workbench.cli.arguments import Json
from workbench.cli.machine import ssh
from workbench.cli.machine.cards import print_check
from workbench.cli.machine.cluster_list import STALE_S
from workbench.cli.tables import as_json, print_answer, print_note
from workbench.cluster import settings
from workbench.cluster.addresses import parse_address
from workbench.cluster.certificates import invitation
from workbench.cluster.ray_commands import ALL_PORTS, NODE_PORTS, answers, find_head_port
from workbench.cluster.settings import HeadSettings
from workbench.cluster.versions import installed_versions
from workbench.errors import EngineError, UsageError
from workbench.home import Home
from workbench.service import Service
from workbench.text import safe_line

if TYPE_CHECKING:
    from workbench.doctor import Check

BoxName = Annotated[str, typer.Argument(metavar="BOX", help="The box's name.")]


def read_cluster(home: Home) -> HeadSettings:
    """Return the settings of this head; UsageError where it is none."""
    head = settings.read_head(home)
    if head is None:
        raise UsageError("this machine is no cluster's head", hint="workbench cluster up ADDRESS")
    return head


def cluster_add_command(
    host: Annotated[
        str,
        typer.Argument(metavar="USER@BOX", help="As for ssh; :/FILE of its workbench after it."),
    ],
    name: Annotated[str, typer.Option(help="The box's name; else the machine's.")] = "",
    address: Annotated[str, typer.Option(help="Its address; else the one it uses.")] = "",
    allow_skew: Annotated[
        bool, typer.Option("--allow-skew", help="Let it work though packages differ there.")
    ] = False,
    service: Annotated[
        bool, typer.Option("--service", help="Connect it again after a reboot of it.")
    ] = False,
) -> None:
    """Check another machine over ssh, and let it join.

    It gets the token over ssh's stdin. Given again, it checks again and connects what was stopped.
    """
    home = Service().home
    head = read_cluster(home)
    box, file = ssh.split_host(host, "cluster add")
    if name:
        settings.check_name(name)
    if address:
        parse_address(address)
    facts, checks = _examine(box, file, head.address, address, allow_skew=allow_skew)
    _print_checks(checks)
    _refuse_failed(box, checks)
    _refuse_taken(home, box, facts, head.address)
    named = settings.check_name(name or (facts["joined"] or {}).get("box") or facts["hostname"])
    if allow_skew:
        _note_skew(home, named, allowed=True)
    options = ["--token-file", "/dev/stdin", "--name", named]
    options += ["--address", address] if address else []
    _there(box, [file, "cluster", "join", head.address, *options], invitation(home))
    if service:
        _there(box, [file, "service", "install"])
    print_note("`workbench cluster ls` shows it")


def _examine(
    box: str, file: str, head: str, address: str, *, allow_skew: bool
) -> tuple[dict[str, Any], list[Check]]:
    """Return the facts of the other machine, and the checks that they pass or fail."""
    from workbench.doctor.box_checks import check_candidate

    print_note(f"asking {box}")
    with ssh.Conversation(box, [file, "cluster", "probe", head]) as talk:
        facts = talk.ask("facts")
        if facts is None:
            raise _no_probe(box, file, talk.end())
        facts["address"] = address or facts["address"]
        answered = bool(facts["address"]) and answers(facts["address"], NODE_PORTS[0], 3.0)
        skew_s = talk.clock_skew_s()
    judged = check_candidate(facts, head, skew_s, answers=answered, allow_skew=allow_skew)
    return facts, list(judged)


def _no_probe(box: str, file: str, code: int) -> UsageError:
    """Return why the other machine's workbench has not answered, with the missing step."""
    if code == ssh.NOT_CONNECTED:
        return UsageError(f"no connection to {box}", hint=f"try ssh {box} by itself")
    if code != ssh.NOT_FOUND:
        return UsageError(
            f"{file} on {box} ended with exit code {code}",
            hint=f"is its version the same? ssh {box} {shlex.quote(file)} --version",
        )
    here = installed_versions()
    asked = "import platform; print(platform.python_version())"
    _, found = ssh.run_there(box, ["python3", "-c", asked])
    python = f"its python3 is {safe_line(found.strip(), 40)}" if found else "it has no python3"
    return UsageError(
        f"{box} does not find {safe_line(file, 200)}; {python}",
        hint=f"install qlora-workbench {here['qlora-workbench']} there with Python "
        f"{here['python']}, or name its file: "
        f"workbench cluster add {box}:/home/you/workbench/.venv/bin/workbench",
    )


def _refuse_failed(box: str, checks: list[Check]) -> None:
    if failed := [check.name for check in checks if check.status == "fail"]:
        raise EngineError(
            f"{box} has not joined: {', '.join(failed)}",
            hint="mend this, and give the command again",
        )


def _refuse_taken(home: Home, box: str, facts: dict[str, Any], head: str) -> None:
    """Raise UsageError for a machine that has an engine, or is a box of another cluster."""
    own = hashlib.sha256(home.token.read_bytes().strip()).hexdigest()
    joined = facts["joined"]
    if facts["has_engine"]:
        raise UsageError(f"an engine runs on {box}", hint="there: workbench engine stop")
    if joined and joined["head"] != head and facts["token_sha256"] != own:
        raise UsageError(
            f"{box} is a box of the cluster at {safe_line(joined['head'], 40)}",
            hint="there: workbench cluster leave",
        )


def _there(box: str, words: list[str], typed: str = "") -> None:
    """Run a step on the other machine, and show what it prints."""
    code, said = ssh.run_there(box, words, typed)
    for line in said.splitlines():
        print_answer(safe_line(line))
    if code:
        raise EngineError(
            f"this failed on {box}: {' '.join(words[1:3])}", hint="its reason is above"
        )


def cluster_probe_command(head: str) -> None:
    """Answer a head that adds this machine over ssh."""
    from workbench.doctor.box_facts import answer_head

    answer_head(Service().home.make(), str(parse_address(head)), sys.stdin, sys.stdout)


def cluster_drain_command(
    box: BoxName,
    now: Annotated[
        bool, typer.Option("--now", help="Checkpoint its trials and continue them elsewhere.")
    ] = False,
    as_data: Json = False,
) -> None:
    """Start no more trials on a box."""
    _request("drain", as_data, box=box, now=now)


def cluster_undrain_command(box: BoxName, as_data: Json = False) -> None:
    """Let a drained box take trials again."""
    _request("undrain", as_data, box=box)


def _request(verb: str, as_data: bool, **args: object) -> None:
    service = Service()
    read_cluster(service.home)
    answer = service.wait_for_answer(service.send(verb, **args))
    if as_data:
        as_json(answer.to_json())
    else:
        print_answer(safe_line(answer.text))


def cluster_allow_skew_command(
    box: BoxName,
    undo: Annotated[bool, typer.Option("--undo", help="Use it with equal versions alone.")] = False,
) -> None:
    """Let a box work although its packages differ.

    Python, Ray and the workbench itself must always be equal.
    """
    home = Service().home
    read_cluster(home)
    _note_skew(home, settings.check_name(box), allowed=not undo)
    if undo:
        print_answer(f"{box} takes trials where its versions are those of the head")
        return
    print_answer(f"{box} takes trials whatever its packages, but with the head's Python and Ray")
    print_note("losses there may differ from other boxes', and a trial that has begun there cannot")
    print_note("go on where a version differs: it fails there with that reason")


def _note_skew(home: Home, box: str, *, allowed: bool) -> None:
    head = read_cluster(home)
    others = {name for name in head.allow_skew if name != box}
    names = sorted(others | {box} if allowed else others)
    settings.write_settings(home, replace(head, allow_skew=names))


def cluster_doctor_command(as_data: Json = False) -> None:
    """Check every box. Every problem comes with its hint."""
    service = Service()
    joined = settings.read_joined(service.home)
    checks = list(_check_joined(service.home) if joined else _check_all(service))
    if as_data:
        as_json([asdict(check) for check in checks])
    else:
        _print_checks(checks)
    raise typer.Exit(1 if any(check.status == "fail" for check in checks) else 0)


def _check_joined(home: Home) -> Iterator[Check]:
    """Generate the checks of a box, made on the box itself."""
    from workbench.doctor import Check, box_checks, machine

    joined = settings.read_joined(home)
    assert joined is not None
    state = settings.read_state(home)
    status, hint = "ok", ""
    if state.get("state") != "joined":
        status, hint = "fail", f"workbench cluster join {joined.head}, or see {home.logs}/node.log"
    text = f"{state.get('state', 'not connected')}, {state.get('text', '')}"
    yield Check(name=f"box {joined.box}", status=status, finding=safe_line(text), hint=hint)  # type: ignore[arg-type]
    reached = find_head_port(joined.head, 3.0) is not None
    yield Check(
        name="head",
        status="ok" if reached else "fail",
        finding=f"{joined.head} {'answers' if reached else 'does not answer'}",
        hint="" if reached else f"is it on, and are ports {ALL_PORTS[0]}-{ALL_PORTS[1]} open?",
    )
    mode = home.token.stat().st_mode & 0o777 if home.token.exists() else None
    yield box_checks.check_mode("token", mode)
    yield machine.check_disk(home)


def _check_all(service: Service) -> Iterator[Check]:
    """Generate the checks of all boxes, made on the head from what its loop knows."""
    from workbench.doctor import Check, box_checks

    head = read_cluster(service.home)
    listed = settings.read_json(settings.boxes_file(service.home))
    port = find_head_port(head.address)
    yield Check(
        name="head",
        status="ok" if port else "fail",
        finding=f"{head.address}:{port} answers"
        if port
        else f"Ray does not answer at {head.address}",
        hint="" if port else "workbench engine start",
    )
    if port and time.time() - listed.get("at_utc", 0.0) > STALE_S:
        finding = "does not answer: what follows is old"
        yield Check(name="engine", status="fail", finding=finding, hint="workbench engine start")
    boxes: list[dict[str, Any]] = listed.get("boxes", [])
    for one in boxes:
        yield from box_checks.check_box(one)
    yield from _check_cards(service, {str(one["box"]) for one in boxes})


def _check_cards(service: Service, boxes: set[str]) -> Iterator[Check]:
    """Generate a check for each card of a box that takes no trial for a reason of its own."""
    from workbench.doctor import Check

    for card in service.snapshot().cards:
        if card.uuid.partition(":")[0] not in boxes:
            continue
        hint = f"workbench undrain {card.uuid}"
        why = "drained" if card.drained else ""
        if card.quarantined:
            why, hint = f"quarantined: {card.quarantined}", f"{hint} --quarantine"
        elif not why and card.guard:
            why, hint = card.guard, "it takes trials again by itself"
        if why:
            yield Check(name=f"card {card.uuid}", status="warn", finding=why, hint=hint)


def _print_checks(checks: Iterable[Check]) -> None:
    for check in checks:
        print_check(check)
