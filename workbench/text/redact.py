"""Mask secrets in text before it is stored or shown.

Secrets are recognised by their form (tokens of well-known services, passwords in URLs), and by
value: the values of environment variables whose names contain token, key, secret or passw.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import traceback
from collections.abc import Mapping
from types import TracebackType

MASK = "***"
_NAMED = re.compile(r"token|key|secret|passw", re.IGNORECASE)
_LEAST = 8
"""A shorter value is likely an ordinary word, and masking it would damage messages."""
_PATHS = re.compile(r"[/~.]")
_LOGIN = re.compile(r"://[^\s/@:]*:([^\s/@]+)@")

_FORMS = (
    r"\b(?:hf_[A-Za-z0-9]{30,}|sk-[A-Za-z0-9_-]{20,}|gh[pousr]_[A-Za-z0-9]{30,}"
    r"|github_pat_[A-Za-z0-9_]{30,}|xox[abprs]-[A-Za-z0-9-]{20,}|AKIA[0-9A-Z]{16}\b)"
    r"|(:/{1,2})[^\s/@:\"'\\]{0,200}:[^\s/@\"'\\]{1,200}(?=@)"  # user:password@host
    r"|(://)[^\s/@:\"'\\]{16,200}(?=@)"  # token@host
    r"|((?i:[?&][\w-]{0,40}(?:token|key|secret|passw|signature)[\w-]{0,40}=))[^\s&#\"'\\]+"
    r"|(\bBearer |\bAuthorization: Basic )[\w.~+/=-]{16,}"
    r"|(\b[A-Z0-9_]{0,60}(?:TOKEN|KEY|SECRET|PASSWORD|PASSWD)=)[^\s\"'\\]{8,}"
)


_HINTS = (
    *("hf_", "sk-", "ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_", "xox", "AKIA"),
    *(":/", "?", "&", "Bearer ", "Basic ", "TOKEN=", "KEY=", "SECRET=", "PASSWORD=", "PASSWD="),
)
"""Text without any of these substrings contains no secret of a known form. Searching for them takes
a tenth of the time of matching the pattern."""


def _path(name: str, value: str) -> bool:
    """Return True if a variable holds the path of a file, which is no secret.

    Its name must say so or the file must exist, because base64 keys may begin with a slash too.
    """
    named = name.upper().endswith(("PATH", "FILE", "DIR"))
    return bool(_PATHS.match(value)) and (named or os.path.exists(os.path.expanduser(value)))


def _compile(environ: Mapping[str, str]) -> tuple[tuple[str, ...], re.Pattern[str]]:
    values = {v for name, v in environ.items() if _NAMED.search(name) and not _path(name, v)}
    values |= {login[1] for value in environ.values() if (login := _LOGIN.search(value))}
    values = {value for value in values if len(value) >= _LEAST}
    # A value with quotes or backslashes looks different inside JSON.
    told = values | {json.dumps(value)[1:-1] for value in values}
    # Longest first: a secret that contains another one must be masked as a whole.
    longest = sorted((re.escape(value) for value in told), key=len, reverse=True)
    return (*_HINTS, *sorted(told)), re.compile("|".join([*longest, _FORMS]))


_hints, _secrets = _compile(os.environ)


def learn_secrets(environ: Mapping[str, str]) -> None:
    """Mask the secrets of `environ` from now on.

    At import, the secrets of this process's own environment are learned.
    """
    global _hints, _secrets
    _hints, _secrets = _compile(environ)


def is_secret_name(name: str) -> bool:
    """Return True for the name of an environment variable that is taken to hold a secret."""
    return _NAMED.search(name) is not None


def redact(text: str) -> str:
    """Return `text` with every secret replaced by `***`; JSON stays valid JSON."""
    if not any(hint in text for hint in _hints):
        return text
    return _secrets.sub(lambda m: f"{next(filter(None, m.groups()), '')}{MASK}", text)


def has_secret(text: str) -> bool:
    """Return True if `redact` would mask something in `text`."""
    return _secrets.search(text) is not None


class _Formatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return redact(super().format(record))


def log_without_secrets(form: str) -> None:
    """Set up logging to stderr so that log lines and uncaught tracebacks pass through `redact`.

    `form` is a format of the logging module.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(_Formatter(form))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    sys.excepthook = _print_redacted


def _print_redacted(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    sys.stderr.write(redact("".join(traceback.format_exception(kind, error, trace))))
