"""The boxes of a Ray cluster: an agent on each node, and a thread that carries its files.

The loop calls `look` at every tick and never waits. What takes time, the calls of an agent and the
transfers, runs on the thread of its box.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from workbench.attempts.assignment import Assignment
from workbench.cluster.ray_commands import BOX_RESOURCE, NODE_PORTS, answers
from workbench.cluster.settings import boxes_file, read_head, write_json
from workbench.cluster.versions import ALWAYS_EQUAL, installed_versions, version_differences
from workbench.fleet import RayLost
from workbench.fleet.boxes.agent import BoxAgent
from workbench.fleet.boxes.box_health import BoxHealth, newest_reading
from workbench.fleet.boxes.courier import Agent, Courier
from workbench.fleet.boxes.digests import DigestCache
from workbench.home import Home
from workbench.machine.cards import is_elsewhere
from workbench.machine.sampler import CardReading, MachineReading
from workbench.text import safe_line

log = logging.getLogger("workbench.fleet")

NODES_EVERY_S = 1.0
"""Seconds between two questions to Ray which nodes live."""
LOOK_EVERY_S = 2.0
"""Seconds between two looks at a box's cards and disk, and two writes of the boxes' file."""
PAUSE_S = 0.5
"""Seconds between two rounds of a courier."""
ANSWER_S = 30.0
"""Seconds for one answer of an agent; it is asked again afterwards."""
KNOCK_EVERY_S = 60.0
"""Seconds between two tries of the ports of both machines."""
NO_ROOM_S = 600.0
"""Seconds for which a box whose disk had no room for a base gets no trial with that base."""
SILENT_S = 15.0
"""Seconds without an answer after which a box's cards take no new trial."""


@dataclass(frozen=True, slots=True)
class _RayAgent:
    """A BoxAgent behind Ray: each call waits for its answer, ANSWER_S at most."""

    ray: Any
    handle: Any
    asked: Callable[[], None]
    """Called before each question."""
    answered: Callable[[], None]
    """Called after each answer."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            self.asked()
            found = self.ray.get(getattr(self.handle, name).remote(*arguments), timeout=ANSWER_S)
            self.answered()
            return found

        return call


class BoxLink:
    """One box while its node lives: its agent, its courier, and their thread."""

    def __init__(
        self,
        ray: Any,
        home: Home,
        node: dict[str, Any],
        start: Callable[[str, Assignment], None],
        digests: DigestCache,
    ) -> None:
        self.box, self.node_id = box_name(node), str(node["NodeID"])
        self.address = str(node["NodeManagerAddress"])
        self.problem = ""
        """Why its cards take no trial, as its versions differ; empty while they may."""
        self.skewed = ""
        """The differing versions of a box that may take trials all the same; empty without any."""
        self.token_mode: int | None = None
        self.closed_ports: tuple[list[int], list[int]] = ([], [])
        """Ports that do not answer: the head's, asked by the box, and the box's, by the head."""
        self.work = ""
        """Its work folder; empty until the agent has answered."""
        self.courier: Courier | None = None
        self.health = BoxHealth(self.box)
        self.notes: deque[tuple[str, str]] = deque(maxlen=100)
        """(level, text) of what changed on the box since `RayBoxes.look` took them."""
        self._bases: frozenset[str] = frozenset()
        self._no_room_s: dict[str, float] = {}
        """Monotonic time at which the disk had no room for a trial with that base."""
        self.reading: MachineReading | None = None
        self.trouble = ""
        """The last failure of a call, in words; empty while calls succeed."""
        self._here = installed_versions()
        self._versions: dict[str, str] = {}
        self._unanswered_s: float | None = None
        """Monotonic time of the first question since the last answer; None after an answer."""
        self._looked_s = self._knocked_s = float("-inf")
        self._ray, self._home, self._start, self._digests = ray, home, start, digests
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._live, name=f"box {self.box}", daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Let the thread end after its present call."""
        self._ended.set()

    @property
    def silent_s(self) -> float:
        """Seconds for which a question has had no answer; what the head does in between is none of
        the box's silence.
        """
        since_s = self._unanswered_s
        return 0.0 if since_s is None else time.monotonic() - since_s

    def why_unusable(self) -> str:
        """Return why the box's cards take no trial now; an empty string while they do."""
        if self.problem:
            return self.problem
        if self.work and self.silent_s > SILENT_S:  # else its agent is still starting
            return f"box {self.box} has not answered for {self.silent_s:.0f} s"
        return self.health.problem

    def has_base(self, base: str) -> bool:
        """Return whether the box has the base, or gets it for another trial already."""
        carried = list(self.courier.carried.values()) if self.courier is not None else []
        return not base or base in self._bases or any(c.base == base for c in carried)

    def note_no_room(self, base: str) -> None:
        """Give the box no trial with the base for NO_ROOM_S."""
        self._no_room_s[base] = time.monotonic()

    def has_room(self, base: str) -> bool:
        """Return False for NO_ROOM_S after the disk had no room for a trial with the base."""
        return time.monotonic() - self._no_room_s.get(base, float("-inf")) > NO_ROOM_S

    # --- its thread

    def _live(self) -> None:
        agent: _RayAgent | None = None
        while not self._ended.wait(0.0 if self._is_bringing() else PAUSE_S):
            try:
                if agent is None:
                    agent = self._create_agent()
                if self.courier is None or self.courier.agent is not agent:
                    self._greet(agent)
                self._look_when_due()
                if self.courier is not None:
                    self.courier.work_once()
                self.trouble = ""
            except self._ray.exceptions.ActorDiedError as died:
                self._note(died)
                agent = None
            except Exception as failed:  # a cut network, a full disk: the next round tries again
                self._note(failed)

    def _is_bringing(self) -> bool:
        return self.courier is not None and self.courier.is_bringing and not self.trouble

    def _asked(self) -> None:
        if self._unanswered_s is None:
            self._unanswered_s = time.monotonic()

    def _answered(self) -> None:
        self._unanswered_s = None

    def _note(self, failed: Exception) -> None:
        text = safe_line(f"{type(failed).__name__}: {failed}", 300)
        if text != self.trouble:
            log.warning("box %s: %s", self.box, text)
        self.trouble = text

    def _create_agent(self) -> _RayAgent:
        handle = (
            self._ray.remote(BoxAgent)
            .options(
                num_cpus=0, max_restarts=0, scheduling_strategy=on_node(self._ray, self.node_id)
            )
            .remote()
        )
        return _RayAgent(self._ray, handle, self._asked, self._answered)

    def _greet(self, agent: _RayAgent) -> None:
        hello = agent.hello()
        self._versions = hello["versions"]
        self._compare_versions()
        self.work, self.token_mode = hello["work"], hello["token_mode"]
        if self.courier is None:
            settings = read_head(self._home)
            self.courier = Courier(
                self._home,
                agent,
                Path(self.work),
                self._start,
                self._digests,
                settings.limit_bytes_per_s if settings else 0,
                between=self._look_when_due,
            )
        else:
            self.courier.agent = agent

    def _compare_versions(self) -> None:
        settings = read_head(self._home)
        allowed = settings is not None and self.box in settings.allow_skew
        differing = version_differences(self._here, self._versions)
        names = ALWAYS_EQUAL if allowed else None
        self.problem = version_differences(self._here, self._versions, names)
        self.skewed = differing if not self.problem else ""

    def _knock(self, agent: Agent) -> None:
        """Try the ports of both machines, which firewalls between them may close."""
        settings = read_head(self._home)
        here = settings.address if settings is not None else ""
        theirs = [port for port in NODE_PORTS if not answers(self.address, port)]
        self.closed_ports = (agent.closed_ports(here, list(NODE_PORTS)), theirs)

    def _look_when_due(self) -> None:
        """Look at the box every LOOK_EVERY_S seconds, also in the middle of a long transfer."""
        if self.courier is not None and time.monotonic() - self._looked_s >= LOOK_EVERY_S:
            self._looked_s = time.monotonic()
            self._look(self.courier.agent)

    def _look(self, agent: Agent) -> None:
        self._compare_versions()
        if time.monotonic() - self._knocked_s >= KNOCK_EVERY_S:
            self._knocked_s = time.monotonic()
            self._knock(agent)
        asked_utc = time.time()
        seen = agent.look()
        now_utc = time.time()
        skew_s = seen["clock_utc"] - (asked_utc + now_utc) / 2
        self.notes += self.health.see(int(seen["free_bytes"]), int(seen["floor_bytes"]), skew_s)
        self._bases = frozenset(seen["bases"])
        self.reading = newest_reading(seen, now_utc)
        if self.courier is not None:
            self.courier.skew_s = skew_s


class RayBoxes:
    """All boxes of the cluster that the loop's driver is connected to."""

    def __init__(self, ray: Any, home: Home, start: Callable[[str, Assignment], None]) -> None:
        self._ray, self._home, self._start = ray, home, start
        self._digests = DigestCache()
        self.links: dict[str, BoxLink] = {}
        """The boxes whose nodes live, by name."""
        self.notes: deque[tuple[str, str]] = deque(maxlen=100)
        """(level, text) of boxes that came and went, for the loop's log."""
        self._known: dict[str, str] = {}
        """Every box that was seen, with its last address."""
        self._namesakes: list[tuple[str, str]] = []
        """(name, address) of nodes that are not used, because a box has their name."""
        self._looked_s = self._wrote_s = float("-inf")
        self.head_node = ""

    def look(self, *, at_once: bool = False) -> None:
        """Link nodes that are new, and let go of those that have ended: once a second, or at once.

        Raises RayLost where Ray does not answer.
        """
        now = time.monotonic()
        if at_once or now - self._looked_s >= NODES_EVERY_S:
            self._looked_s = now
            try:
                nodes = self._ray.nodes()
            except Exception as unreachable:
                raise RayLost(f"Ray does not answer: {safe_line(unreachable)}") from unreachable
            self._compare([node for node in nodes if node["Alive"]])
            for link in self.links.values():
                while link.notes:
                    self.notes.append(link.notes.popleft())
        if now - self._wrote_s >= LOOK_EVERY_S:
            self._wrote_s = now
            with suppress(OSError):  # a full disk: `cluster ls` shows that its list is old
                body = {"at_utc": time.time(), "boxes": self.described()}
                write_json(boxes_file(self._home), body)

    def _compare(self, nodes: list[dict[str, Any]]) -> None:
        living = {str(node["NodeID"]) for node in nodes}
        for name, link in list(self.links.items()):
            if link.node_id not in living:
                link.end()
                del self.links[name]
                self.notes.append(("warning", f"box {name} is lost; its trials go on elsewhere"))
        for node in nodes:
            name = box_name(node)
            if "node:__internal_head__" in node["Resources"]:
                self.head_node = str(node["NodeID"])
            elif name and name not in self.links:
                self.links[name] = BoxLink(self._ray, self._home, node, self._start, self._digests)
                back = "is back" if name in self._known else "has joined"
                self._known[name] = self.links[name].address
                self.notes.append(("info", f"box {name} {back}"))
        self._namesakes = [
            (name, str(node["NodeManagerAddress"]))
            for node in nodes
            # A node of the same address is that box's own, which has just been started again.
            if (name := box_name(node)) and self.links[name].address != node["NodeManagerAddress"]
        ]

    def described(self) -> list[dict[str, Any]]:
        """Return what `workbench cluster ls` shows of each box that was ever seen."""
        known = [
            _describe(self.links[name])
            if name in self.links
            else {"box": name, "address": address, "state": "lost"}
            for name, address in sorted(self._known.items())
        ]
        why = "another box has this name; leave there, and join again with --name"
        return [
            *known,
            *(
                {"box": name, "address": address, "state": "unusable", "problem": why}
                for name, address in self._namesakes
            ),
        ]

    def readings(self) -> list[tuple[CardReading, str]]:
        """Return every box's cards under the name `box:card`, each with its problem."""
        found = []
        for name, link in self.links.items():
            reading = link.reading
            for one in reading.cards if reading is not None else ():
                card = replace(one.card, uuid=f"{name}:{one.card.uuid}")
                if card.kind == "cpu":  # all machines number theirs alike
                    card = replace(card, name=f"{card.name} of {name}")
                stalled = reading.problem if reading is not None and reading.stalled else ""
                problem = link.why_unusable() or stalled or one.problem
                found.append((replace(one, card=card, index=None, bus=""), problem))
        return found

    def link_of(self, card: str) -> BoxLink | None:
        """Return the box of a card called `box:card`; None for the head's own, or a lost box's."""
        return self.links.get(card.partition(":")[0]) if is_elsewhere(card) else None

    def end(self) -> None:
        """End every box's thread."""
        for link in self.links.values():
            link.end()


def _describe(link: BoxLink) -> dict[str, Any]:
    carried = list(link.courier.carried.values()) if link.courier is not None else []
    bringing = [one for one in carried if one.mapped is None and one.all_bytes]
    return {
        "box": link.box,
        "address": link.address,
        "state": "unusable" if link.why_unusable() else "up" if link.work else "joining",
        "problem": link.why_unusable() or link.trouble,
        "skewed": link.skewed,
        "token_mode": link.token_mode,
        "closed_on_head": link.closed_ports[0],
        "closed_on_box": link.closed_ports[1],
        "cards": len(link.reading.cards) if link.reading is not None else 0,
        "free_bytes": link.health.free_bytes,
        "skew_s": round(link.health.skew_s, 3),
        "silent_s": round(link.silent_s, 1),
        "sent_bytes": sum(one.sent_bytes for one in bringing),
        "to_send_bytes": sum(one.all_bytes for one in bringing),
    }


def box_name(node: dict[str, Any]) -> str:
    """Return the name that a node gives itself as a resource; empty for the head."""
    names = [name for name in node["Resources"] if name.startswith(BOX_RESOURCE)]
    return names[0].removeprefix(BOX_RESOURCE) if names else ""


def on_node(ray: Any, node_id: str) -> Any:
    """Return Ray's scheduling strategy that keeps an actor on one node."""
    strategies = ray.util.scheduling_strategies
    return strategies.NodeAffinitySchedulingStrategy(node_id=node_id, soft=False)
