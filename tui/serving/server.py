"""The HTTP server of `workbench --serve`: textual-serve behind a secret path, on loopback alone.

textual-serve asks nobody who they are and listens where it is told. Here every path begins with a
token; the names under which a browser may call are fixed, so that no other site can reach the
server by pointing its own name at 127.0.0.1; and nothing is loaded from elsewhere.
"""

from __future__ import annotations

import hmac
import secrets
import shlex
import socket
from collections.abc import Callable

from aiohttp import web
from aiohttp.typedefs import Handler
from textual_serve.server import Server

from workbench.errors import UsageError
from workbench.machine.python_children import python_command

HOST = "127.0.0.1"
_NAMES = {"127.0.0.1", "localhost", "[::1]"}
"""Host names under which the server answers; the port may be that of a tunnel."""
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:;"
    " font-src 'self'; connect-src 'self'; frame-ancestors 'none'; base-uri 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "Referrer-Policy": "no-referrer",  # the path holds the token
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>workbench</title>
<link rel="stylesheet" href="static/css/xterm.css"><script src="static/js/textual.js"></script>
<style>body{margin:0;background:#101010;color:#ccc;font-family:monospace}
#over{display:none;position:fixed;inset:0;background:#101010;padding:2em}
body.-closed #over{display:block}</style></head>
<body><div id="over">This screen has ended; training goes on. Reload the page for another.</div>
<div id="terminal" class="textual-terminal" data-session-websocket-url="SOCKET"
data-font-size="SIZE"></div></body></html>
"""


class BrowserServer(Server):
    """textual-serve's server with a page of ours, below a path that nobody can guess."""

    def __init__(self, command: list[str], token: str) -> None:
        """`command` runs the app for one browser tab; `token` is the first part of every path."""
        super().__init__(f"exec {shlex.join(command)}", host=HOST, title="workbench")
        self._token = token

    def make_app(self) -> web.Application:
        """Return the application: what textual-serve needs of its paths, below the token."""
        inner = web.Application()
        inner.add_routes(
            [
                web.get("/", self._page),
                web.get("/ws", self.handle_websocket),
                web.static("/static", self.statics_path),
            ]
        )
        outer = web.Application(middlewares=[self._guard])
        outer.add_subapp(f"/{self._token}", inner)
        return outer

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Answer only callers that know the token, under our own names."""
        given = request.path.split("/")[1]
        if not hmac.compare_digest(given.encode(), self._token.encode()):
            raise web.HTTPForbidden(text="the address has no token, or a wrong one\n")
        name, _, port = request.host.rpartition(":")
        origin = request.headers.get("Origin", f"http://{request.host}")
        known = name in _NAMES and port.isdecimal()
        if not known or origin != f"http://{request.host}":
            raise web.HTTPForbidden(text="this name does not lead here\n")
        return await handler(request)

    async def _page(self, request: web.Request) -> web.Response:
        size = self._font_size(request.query.get("fontsize", ""))
        socket_url = f"ws://{request.host}/{self._token}/ws"
        text = _PAGE.replace("SOCKET", socket_url).replace("SIZE", size)
        # `connect-src 'self'` leaves out websockets in some browsers.
        policy = _POLICY.replace("connect-src 'self'", f"connect-src 'self' ws://{request.host}")
        headers = {**_HEADERS, "Content-Security-Policy": policy}
        return web.Response(text=text, content_type="text/html", headers=headers)

    @staticmethod
    def _font_size(text: str) -> str:
        return text if text.isascii() and text.isdecimal() and len(text) < 3 else "16"


def serve_screen(
    port: int, *, readonly: bool, ascii_only: bool = False, announce: Callable[[str], None]
) -> None:
    """Serve the screen of the home until ctrl-c; `announce` gets the address with its token.

    `port` 0 takes a free one. Raises UsageError where the port is taken.
    """
    token = secrets.token_urlsafe(32)
    options = [*(["--readonly"] if readonly else []), *(["--ascii"] if ascii_only else [])]
    command = python_command("tui.serving.child", *options)
    with socket.socket() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((HOST, port))
            listening.listen()  # before the address is announced
        except OSError as taken:
            raise UsageError(
                f"port {port} cannot be used: {taken.strerror}",
                hint="name another with --port, or --port 0 for a free one",
            ) from taken
        announce(f"http://{HOST}:{listening.getsockname()[1]}/{token}/")
        app = BrowserServer(command, token).make_app()
        # No access log: it would hold the token.
        web.run_app(app, sock=listening, access_log=None, print=None)
