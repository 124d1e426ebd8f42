"""Certificates for Ray's TLS: an authority that head and boxes share, and one certificate for each.

The authority travels with the token, as one text (`invitation`): who has the token can run programs
on every machine anyway, and each machine then makes the certificate for its own address. Ray
asks for certificates on both ends of every gRPC connection. The command `openssl` makes them.
"""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

from workbench.errors import EngineError
from workbench.home import Home
from workbench.machine.files import write_durably
from workbench.machine.staging import whole_folder

_CONFIG = """
[req]
distinguished_name = names
[ca]
default_ca = here
[here]
database = index.txt
new_certs_dir = .
rand_serial = yes
default_md = sha256
policy = names
[names]
commonName = supplied
[authority]
basicConstraints = critical,CA:true
keyUsage = critical,keyCertSign
[machine]
basicConstraints = CA:false
subjectAltName = {names}
"""
# A clock that is wrong must not make a certificate of another machine one of the future.
_VALID = ("-startdate", "20000101000000Z", "-enddate", "20991231235959Z")


_AUTHORITY = ("ca.crt", "ca.key")
"""Files of the authority, in the order in which an invitation has them."""


def certificates_folder(home: Home) -> Path:
    """Return the folder of the authority and of this machine's certificate."""
    return home.root / "cluster" / "tls"


def make_certificates(home: Home, address: str, authority: Mapping[str, str] | None = None) -> None:
    """Make this machine's certificate for `address`, and the authority first if there is none.

    `authority` has the files of another one by their names. Everything changes at once, or nothing
    does. Raises EngineError where the command `openssl` is missing or fails.
    """
    folder = certificates_folder(home)
    with whole_folder(folder) as staged:
        staged.chmod(0o700)
        for name in _AUTHORITY:
            if authority is not None:
                write_durably(staged / name, authority[name].encode())
            elif (folder / name).exists():
                shutil.copy(folder / name, staged)
        if not (staged / "ca.crt").exists():
            _sign(staged, "ca", "authority", ("-selfsign", "-keyfile", "ca.key"), address)
        _sign(staged, "node", "machine", ("-cert", "ca.crt", "-keyfile", "ca.key"), address)


def remove_certificates(home: Home) -> None:
    """Let Ray speak without certificates from its next start on."""
    shutil.rmtree(certificates_folder(home), ignore_errors=True)
    invitation_file(home).unlink(missing_ok=True)


def certificate_environment(home: Home) -> dict[str, str]:
    """Return the environment that makes Ray use the certificates; empty where there are none."""
    folder = certificates_folder(home)
    if not (folder / "node.crt").exists():
        return {}
    return {
        "RAY_USE_TLS": "1",
        "RAY_TLS_SERVER_CERT": str(folder / "node.crt"),
        "RAY_TLS_SERVER_KEY": str(folder / "node.key"),
        "RAY_TLS_CA_CERT": str(folder / "ca.crt"),
    }


def invitation_file(home: Home) -> Path:
    """Return the file of a head with certificates that takes the place of its token in `join`."""
    return home.root / "cluster" / "invitation"


def write_invitation(home: Home) -> None:
    """Write the invitation, mode 0600."""
    write_durably(invitation_file(home), invitation(home).encode())


def invitation(home: Home) -> str:
    """Return all that a box needs: the token and, with certificates, the authority's two files."""
    folder = certificates_folder(home)
    files = [folder / name for name in _AUTHORITY]
    parts = [path.read_text() for path in files if path.exists()]
    return "\n".join([home.token.read_text().strip(), *parts]) + "\n"


def accept_invitation(home: Home, text: str, address: str) -> None:
    """Make a certificate if the invitation has an authority, then keep its token."""
    token, _, authority = text.strip().partition("\n")
    if authority.strip():
        certificate, begin, key = authority.partition("-----BEGIN PRIVATE KEY-----")
        parts = (f"{certificate.strip()}\n", f"{begin}{key}\n")
        make_certificates(home, address, dict(zip(_AUTHORITY, parts, strict=True)))
    else:
        remove_certificates(home)
    write_durably(home.token, token.strip().encode())


def asks_for_certificates(host: str, port: int, timeout_s: float = 3.0) -> bool:
    """Return True where a port speaks TLS."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    try:
        with socket.create_connection((host, port), timeout=timeout_s) as plain:
            context.wrap_socket(plain).close()
    except OSError:  # also of a port that answers in the clear, or not at all
        return False
    return True


def _sign(folder: Path, name: str, kind: str, signer: tuple[str, ...], address: str) -> None:
    """Write `name`.key and `name`.crt into the folder."""
    with tempfile.TemporaryDirectory(dir=folder) as place:
        work = Path(place)
        names = ",".join(f"IP:{each}" for each in sorted({address, "127.0.0.1"}))
        (work / "config").write_text(_CONFIG.format(names=names))
        (work / "index.txt").touch()
        for known in folder.glob("ca.*"):
            shutil.copy(known, work)
        curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
        asked = ("-keyout", f"{name}.key", "-out", "request", "-subj", f"/CN=workbench {kind}")
        _openssl(work, "req", "-new", "-config", "config", *curve, *asked)
        made = ("-in", "request", "-out", f"{name}.crt", "-notext", "-batch")
        given = ("-config", "config", "-extensions", kind)
        _openssl(work, "ca", *given, *signer, *_VALID, *made)
        for file in (f"{name}.key", f"{name}.crt"):
            write_durably(folder / file, (work / file).read_bytes())


def require_openssl() -> None:
    """Raise EngineError where the command `openssl` is not installed."""
    if shutil.which("openssl") is None:
        raise EngineError(
            "the command openssl, which makes certificates, is not installed",
            hint="apt install openssl, or leave out --tls and use a VPN",
        )


def _openssl(folder: Path, *words: str) -> None:
    require_openssl()
    try:
        subprocess.run(
            ["openssl", *words], cwd=folder, capture_output=True, text=True, check=True, timeout=60
        )
    except subprocess.SubprocessError as failed:
        said = (getattr(failed, "stderr", "") or str(failed)).strip().splitlines()
        raise EngineError(f"openssl makes no certificate: {said[-1] if said else failed}") from None
