"""`workbench --serve` through real HTTP: the token, the names, the page, and a screen in it."""

from __future__ import annotations

import asyncio
import re
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pyte
import pytest

from tests.support.pty_app import CURSOR_QUERY, CURSOR_REPLY
from workbench.errors import UsageError
from workbench.home import Home

pytest.importorskip("textual_serve", reason="the extra `serve` is not installed")
LIMIT_S = 20.0


@asynccontextmanager
async def served(home: Home, monkeypatch: pytest.MonkeyPatch, *options: str) -> AsyncIterator[str]:
    """Run the command over `home`; yield its address, and end it by ctrl-c."""
    monkeypatch.setenv("WORKBENCH_HOME", str(home.root))
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "workbench", "--serve", "--readonly", "--port", "0"),
        *options,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    assert child.stdout is not None
    try:
        yield (await asyncio.wait_for(child.stdout.readline(), LIMIT_S)).decode().strip()
        child.send_signal(signal.SIGINT)
        assert await asyncio.wait_for(child.wait(), LIMIT_S) in (0, 130)
    finally:
        if child.returncode is None:
            child.kill()


class Tab:
    """A browser's terminal of 100 × 30 cells, which answers queries."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.socket = socket
        self._screen = pyte.Screen(100, 30)
        self._stream = pyte.ByteStream(self._screen)
        self.seen = b""

    async def until(self, words: str) -> None:
        """Read until these words stand on the screen."""
        async with asyncio.timeout(LIMIT_S):
            while words not in "\n".join(self._screen.display):
                message = await self.socket.receive()
                assert message.type is aiohttp.WSMsgType.BINARY
                self._stream.feed(message.data)
                self.seen += message.data
                for _ in range(message.data.count(CURSOR_QUERY)):
                    await self.press(CURSOR_REPLY.decode())

    async def until_closed(self) -> None:
        async with asyncio.timeout(LIMIT_S):
            while not self.socket.closed:
                await self.socket.receive()

    async def press(self, key: str) -> None:
        await self.socket.send_json(["stdin", key])


async def test_a_browser_with_the_token_gets_the_screen_and_nobody_else_anything(
    running: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with (
        served(running, monkeypatch) as address,
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(LIMIT_S)) as http,
    ):
        base, token = address.rstrip("/").rsplit("/", 1)
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+", base)
        assert len(token) >= 40
        await _check_refused(http, base, address)
        page = await http.get(address)
        text = await page.text()
        assert page.headers["Referrer-Policy"] == "no-referrer"
        assert "frame-ancestors 'none'" in page.headers["Content-Security-Policy"]
        assert not re.search(r"https?://(?!127\.0\.0\.1)", text)  # nothing comes from elsewhere
        [socket_url] = re.findall(r'"(ws://[^"]+)"', text)
        for path in ("static/js/textual.js", "static/css/xterm.css"):
            assert (await http.get(address + path)).status == 200
        async with http.ws_connect(f"{socket_url}?width=100&height=30", origin=base) as socket:
            tab = Tab(socket)
            await tab.until("Dashboard")
            await tab.until("preparing mistral-7b-support")
            await tab.press("2")
            await tab.until("Trials · ")
            await tab.press("s")
            await tab.until("this screen only reads")
            await tab.press("q")
            await tab.until_closed()


async def test_a_browser_gets_ascii_alone(running: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    async with (
        served(running, monkeypatch, "--ascii") as address,
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(LIMIT_S)) as http,
    ):
        socket_url = f"{address.replace('http', 'ws', 1)}ws?width=100&height=30"
        origin = address.rsplit("/", 2)[0]
        async with http.ws_connect(socket_url, origin=origin) as socket:
            tab = Tab(socket)
            await tab.until("Dashboard")
            await tab.until("@ preparing mistral-7b-support")
            assert tab.seen.isascii()
            await tab.press("q")
            await tab.until_closed()


async def _check_refused(http: aiohttp.ClientSession, base: str, address: str) -> None:
    for url in (base, f"{base}/ws", f"{base}/wrong/", f"{base}/static/js/textual.js"):
        assert (await http.get(url)).status == 403
    for headers in (
        {"Host": "evil.example"},  # another site's name that was pointed at 127.0.0.1
        {"Host": "evil.example:80"},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
    ):
        assert (await http.get(address, headers=headers)).status == 403
        with pytest.raises(aiohttp.WSServerHandshakeError):
            await http.ws_connect(f"{address}ws", headers=headers)


def test_a_port_that_is_taken_is_named() -> None:
    from tui.serving.server import serve_screen

    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(UsageError, match="cannot be used: Address already in use"):
            serve_screen(other.getsockname()[1], readonly=True, announce=print)
