"""A hub that hangs, refuses, breaks off or answers garbage: said within a minute, with a mend."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

from tests.support.sound import SECRET
from workbench.recipe import find_recipe, load_recipe

pytestmark = pytest.mark.fault

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
    kind = type("OneHub", (Hub,), {"way": way, "open": threading.Event()})
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
        kind.open.set()
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def prepare(tmp_path: Path) -> Callable[[str, str], dict[str, Any]]:
    """What preparing says with that hub, of a recipe changed so."""

    def run(address: str, change: str) -> dict[str, Any]:
        folder = tmp_path / "experiment"
        folder.mkdir()
        recipe = load_recipe(find_recipe("demo"), [change, "sweep=null"])
        (folder / "recipe.json").write_text(recipe.model_dump_json())
        subprocess.run(
            [sys.executable, "-m", "workbench.training.prepare", folder, tmp_path / "cache"],
            env={
                **os.environ,
                "HF_ENDPOINT": address,
                "HF_HOME": str(tmp_path / "hf"),
                "HF_TOKEN": SECRET,
                "NO_PROXY": "127.0.0.1",
            },
            check=False,
            timeout=LIMIT_S,
            capture_output=True,
        )
        assert SECRET not in (folder / "prepared.json").read_text()
        return dict(json.loads((folder / "prepared.json").read_text()))

    return run


@pytest.mark.parametrize(
    "way",
    [
        "hangs",
        "hangs in a file",
        "refuses",
        "answers garbage",
        "answers another shape",
        "is out of order",
        "breaks off in a file",
    ],
)
def test_a_model_on_a_hub_that(way: str, prepare: Callable[[str, str], dict[str, Any]]) -> None:
    with hub(way) as address:
        told = prepare(address, "model.name=somebody/model")
    assert not told["ok"]
    assert "somebody/model" in told["error"]
    assert told["mend"]
    assert "please report" not in told["mend"]


@pytest.mark.parametrize("way", ["hangs", "answers garbage"])
def test_data_on_a_hub_that(way: str, prepare: Callable[[str, str], dict[str, Any]]) -> None:
    with hub(way) as address:
        told = prepare(address, "data.train=somebody/rows")
    assert not told["ok"]
    assert "somebody/rows" in told["error"]
    assert "network" in told["mend"]
