"""A hub that hangs, refuses or answers garbage: reported within a minute, with a hint."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

from tests.support.sound import SECRET
from workbench.recipe import find_recipe, load_recipe

pytestmark = [pytest.mark.fault, pytest.mark.xdist_group("hub")]  # preparations are made once

LIMIT_S = 150
"""Its timeouts add up to well under a minute; the rest is for imports on a busy machine."""
COMMIT = "0" * 40
FILES = ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]


class Hub(BaseHTTPRequestHandler):
    """Answers in the way its class is told to."""

    way: ClassVar[str] = ""
    open: ClassVar[threading.Event]

    def do_GET(self) -> None:
        way, asks = self.way, "/api/" in self.path
        if way == "hangs" or (way == "hangs in a file" and not asks):
            self.open.wait(LIMIT_S)
        elif way == "answers garbage":
            self._say(200, b"\xff\xfe<html>" + bytes(range(256)))
        elif way == "answers another shape":
            self._say(200, b'["nothing", {"of": "yours"}]')
        elif way == "is out of order":
            self._say(503, b"come back later")
        elif way == "breaks off in a file" and not asks:
            self._say(200, b"{", promised=10_000)
        else:
            listed = [{"rfilename": name} for name in FILES]
            self._say(200, json.dumps({"id": "a/b", "sha": COMMIT, "siblings": listed}).encode())

    do_HEAD = do_GET

    def _say(self, status: int, body: bytes, promised: int | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(promised or len(body)))
        self.send_header("ETag", '"abc"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Not onto the test's screen."""


@contextmanager
def hub(way: str) -> Iterator[str]:
    """Its address."""
    released = threading.Event()
    kind = type("OneHub", (Hub,), {"way": way, "open": released})
    server = ThreadingHTTPServer(("127.0.0.1", 0), kind)
    server.daemon_threads = True
    address = f"http://127.0.0.1:{server.server_address[1]}"
    if way == "refuses":
        server.server_close()
        yield address
        return
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield address
    finally:
        released.set()
        server.shutdown()
        server.server_close()
        thread.join()


ASKED = [
    ("model.name", "somebody/model", way)
    for way in (
        "hangs",
        "hangs in a file",
        "refuses",
        "answers garbage",
        "answers another shape",
        "is out of order",
        "breaks off in a file",
    )
] + [("data.train", "somebody/rows", way) for way in ("hangs", "answers garbage")]


@dataclass
class Preparation:
    """Prepare the demo with one thing from a hub."""

    folder: Path
    process: subprocess.Popen[bytes]

    def told(self) -> dict[str, Any]:
        self.process.wait(LIMIT_S)
        text = (self.folder / "prepared.json").read_text()
        assert SECRET not in text
        return dict(json.loads(text))


@pytest.fixture(scope="module")
def preparations(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[dict[tuple[str, ...], Preparation]]:
    """One for each of ASKED, all at once: most of their time is waiting."""
    with ExitStack() as open_hubs:
        found: dict[tuple[str, ...], Preparation] = {}
        for key, name, way in ASKED:
            folder = tmp_path_factory.mktemp("experiment")
            recipe = load_recipe(find_recipe("demo"), [f"{key}={name}", "sweep=null"])
            (folder / "recipe.json").write_text(recipe.model_dump_json())
            env = {
                **os.environ,
                "HF_ENDPOINT": open_hubs.enter_context(hub(way)),
                "HF_HOME": str(folder / "hf"),
                "HF_TOKEN": SECRET,
                "NO_PROXY": "127.0.0.1",
            }
            words = [
                sys.executable,
                "-m",
                "workbench.training.prepare",
                str(folder),
                str(folder / "cache"),
            ]
            null = subprocess.DEVNULL
            process = subprocess.Popen(words, env=env, stdout=null, stderr=null)
            found[key, name, way] = Preparation(folder, process)
        yield found
        for one in found.values():
            one.process.kill()
            one.process.wait()


@pytest.mark.parametrize(
    "asked",
    [pytest.param(a, marks=pytest.mark.slow if a[2] == "hangs in a file" else ()) for a in ASKED],
    ids=" ".join,
)
def test_a_hub_that(
    asked: tuple[str, str, str], preparations: dict[tuple[str, ...], Preparation]
) -> None:
    key, name, _ = asked
    told = preparations[asked].told()
    assert not told["ok"]
    assert name in told["error"]
    assert told["hint"]
    assert key == "model.name" or "network" in told["hint"]
    assert "please report" not in told["hint"]
