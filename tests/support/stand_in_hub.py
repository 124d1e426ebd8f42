"""A server that speaks what of a model hub's API an upload needs, and keeps what it gets."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar


class StandInHub(BaseHTTPRequestHandler):
    """Answers to create, info, pre-upload and commit; repositories by name."""

    token: ClassVar[str] = "stand-in-token"
    repositories: ClassVar[dict[str, dict[str, Any]]] = {}

    def do_GET(self) -> None:
        name = self.path.partition("?")[0].removeprefix("/api/models/")
        found = self.repositories.get(name)
        if found is None:
            self._answer(404, {"error": "Repository not found"})
            return
        self._answer(200, {"id": name, "private": found["private"], "siblings": []})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        path = self.path.partition("?")[0]
        if self.headers["Authorization"] != f"Bearer {self.token}":
            self._answer(401, {"error": "Invalid credentials"})
        elif path == "/api/repos/create":
            self._create(json.loads(body))
        elif path == "/api/validate-yaml":
            self._answer(200, {"errors": [], "warnings": []})
        elif path.endswith("/preupload/main"):
            files = [
                {"path": one["path"], "uploadMode": "regular", "shouldIgnore": False}
                for one in json.loads(body)["files"]
            ]
            self._answer(200, {"files": files})
        elif path.endswith("/commit/main"):
            self._commit(path.split("/api/models/")[1].removesuffix("/commit/main"), body)
        else:
            self._answer(404, {"error": f"no such path: {path}"})

    def _create(self, asked: dict[str, Any]) -> None:
        name = "/".join(filter(None, (asked.get("organization"), asked["name"])))
        url = {"url": f"http://{self.headers['Host']}/{name}"}
        if name in self.repositories:
            self._answer(409, {"error": "You already created this model repo", **url})
            return
        private = asked.get("private") or asked.get("visibility") == "private"
        self.repositories[name] = {"private": bool(private), "files": {}, "commits": 0}
        self._answer(200, url)

    def _commit(self, name: str, body: bytes) -> None:
        found = self.repositories[name]
        for line in body.splitlines():
            one = json.loads(line)
            if one["key"] == "file":
                value = one["value"]
                found["files"][value["path"]] = base64.b64decode(value["content"])
        found["commits"] += 1
        host = f"http://{self.headers['Host']}"
        url = f"{host}/{name}/commit/{found['commits']:040x}"
        oid = f"{found['commits']:040x}"
        self._answer(200, {"commitUrl": url, "commitOid": oid, "success": True})

    def _answer(self, status: int, body: dict[str, Any]) -> None:
        text = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: object) -> None:
        """Stay silent."""


@contextmanager
def stand_in_hub() -> Iterator[tuple[str, dict[str, dict[str, Any]]]]:
    """Run the server while the block runs; yield its address and its repositories."""
    StandInHub.repositories.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), StandInHub)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", StandInHub.repositories
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
