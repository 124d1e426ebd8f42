"""Certificates for Ray's TLS: one authority, a certificate for each machine, and who is refused."""

from __future__ import annotations

import ssl
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from socket import create_connection, create_server

import pytest

from workbench.cluster.certificates import (
    accept_invitation,
    asks_for_certificates,
    certificate_environment,
    certificates_folder,
    invitation,
    make_certificates,
    remove_certificates,
)
from workbench.errors import EngineError
from workbench.home import Home


@pytest.fixture
def head(tmp_path: Path) -> Home:
    home = Home(tmp_path / "head").make()
    home.token.write_text("7" * 64)
    make_certificates(home, "127.0.0.1")
    return home


@pytest.fixture
def box(tmp_path: Path, head: Home) -> Home:
    home = Home(tmp_path / "box").make()
    accept_invitation(home, invitation(head), "127.0.0.1")
    return home


def _answered(server: ssl.SSLContext, ask: Callable[[int], bool]) -> bool:
    """Return what `ask` says of a port on which `server` greets one client."""
    with create_server(("127.0.0.1", 0)) as door:

        def greet() -> None:
            client, _ = door.accept()
            try:
                with server.wrap_socket(client, server_side=True) as talk:
                    talk.sendall(b"welcome")
            except OSError:
                client.close()

        thread = threading.Thread(target=greet)
        thread.start()
        try:
            return ask(door.getsockname()[1])
        finally:
            thread.join()


def _context(home: Home | None, purpose: ssl.Purpose) -> ssl.SSLContext:
    context = ssl.create_default_context(purpose)
    if home is not None:
        folder = certificates_folder(home)
        context.load_verify_locations(folder / "ca.crt")
        context.load_cert_chain(folder / "node.crt", folder / "node.key")
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def _is_welcome(home: Home | None, trusted: Home) -> Callable[[int], bool]:
    context = _context(home, ssl.Purpose.SERVER_AUTH)
    context.load_verify_locations(certificates_folder(trusted) / "ca.crt")

    def ask(port: int) -> bool:
        try:
            with (
                create_connection(("127.0.0.1", port), timeout=5) as plain,
                context.wrap_socket(plain, server_hostname="127.0.0.1") as talk,
            ):
                return talk.recv(10) == b"welcome"
        except OSError:
            return False

    return ask


def test_a_box_with_the_invitation_is_welcome_and_one_without_is_not(head: Home, box: Home) -> None:
    server = _context(head, ssl.Purpose.CLIENT_AUTH)
    assert _answered(server, _is_welcome(box, head))
    assert not _answered(server, _is_welcome(None, head))
    assert _answered(server, asks_for_certificates_at)
    assert invitation(box) == invitation(head)
    assert box.token.read_text() == "7" * 64


def asks_for_certificates_at(port: int) -> bool:
    return asks_for_certificates("127.0.0.1", port)


def test_a_certificate_of_another_cluster_is_refused(head: Home, tmp_path: Path) -> None:
    stranger = Home(tmp_path / "stranger").make()
    make_certificates(stranger, "127.0.0.1")
    assert not _answered(_context(head, ssl.Purpose.CLIENT_AUTH), _is_welcome(stranger, head))


def test_certificates_count_whatever_a_clock_says(head: Home) -> None:
    file = str(certificates_folder(head) / "node.crt")
    words = ["openssl", "x509", "-noout", "-dates", "-in", file]
    said = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    assert "notBefore=Jan  1 00:00:00 2000 GMT" in said
    assert "notAfter=Dec 31 23:59:59 2099 GMT" in said


def test_ray_is_told_where_they_are_and_nothing_without_them(head: Home, tmp_path: Path) -> None:
    env = certificate_environment(head)
    assert env.pop("RAY_USE_TLS") == "1"
    assert all(Path(file).stat().st_mode & 0o077 == 0 for file in env.values())
    remove_certificates(head)
    assert certificate_environment(head) == {}
    assert invitation(head).split() == ["7" * 64]


def test_without_openssl_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EngineError, match="openssl, which makes certificates, is not installed"):
        make_certificates(Home(tmp_path / "home").make(), "127.0.0.1")


def test_an_invitation_that_cannot_be_taken_changes_nothing(
    box: Home, head: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh, stranger = Home(tmp_path / "fresh").make(), Home(tmp_path / "stranger").make()
    stranger.token.write_text("8" * 64)
    make_certificates(stranger, "127.0.0.1")
    with monkeypatch.context() as without:
        without.setenv("PATH", str(tmp_path))
        for home in (box, fresh):
            with pytest.raises(EngineError, match="openssl"):
                accept_invitation(home, invitation(stranger), "127.0.0.1")
    assert invitation(box) == invitation(head)
    assert certificate_environment(box)
    assert not fresh.token.exists()
    assert not certificate_environment(fresh)


def test_a_certificate_that_cannot_be_renewed_stays(
    head: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path.name: path.read_bytes() for path in certificates_folder(head).iterdir()}
    (tmp_path / "openssl").write_text('#!/bin/sh\n[ "$1" = req ] && exec /usr/bin/openssl "$@"\n')
    (tmp_path / "openssl").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(EngineError, match="no certificate"):
        make_certificates(head, "127.0.0.2")
    after = {path.name: path.read_bytes() for path in certificates_folder(head).iterdir()}
    assert after == before
