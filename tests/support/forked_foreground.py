"""Foreground training in children of one process, which imports the libraries once for all.

`python -m tests.support.forked_foreground FD` reads requests from the socket FD: the arguments of
`workbench.training.foreground` and its environment as JSON, with descriptors for stdout and stderr.
It answers with the child's process id, and with its exit code once it has ended.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import TextIO

MOST_BYTES = 1 << 20


class ForkedForeground:
    """A process that has imported what training needs, and its newest child."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        command = [sys.executable, "-m", __name__, str(theirs.fileno())]
        self._process = subprocess.Popen(command, pass_fds=[theirs.fileno()])
        theirs.close()

    def start(self, words: Sequence[str], env: Mapping[str, str]) -> tuple[int, TextIO, TextIO]:
        """Start foreground training; return its process id, stdout and stderr."""
        outs, errors = os.pipe(), os.pipe()
        request = json.dumps([list(words), dict(env)]).encode()
        socket.send_fds(self._socket, [request], [outs[1], errors[1]])
        pid = int(self._socket.recv(MOST_BYTES))
        os.close(outs[1])
        os.close(errors[1])
        return pid, os.fdopen(outs[0]), os.fdopen(errors[0])

    def wait(self) -> int:
        """Wait for the child's end and return its exit code."""
        return int(self._socket.recv(MOST_BYTES))

    def close(self) -> None:
        self._socket.close()
        self._process.wait(60)


def serve(requests: socket.socket) -> None:
    """Fork a child for each request, one after another, until the other side has closed."""
    while True:
        message, descriptors, _, _ = socket.recv_fds(requests, MOST_BYTES, 2)
        if not message:
            return
        pid = os.fork()
        if pid == 0:
            _train(*json.loads(message), *descriptors)
        for descriptor in descriptors:
            os.close(descriptor)
        requests.send(str(pid).encode())
        requests.send(str(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])).encode())


def _train(words: list[str], env: dict[str, str], out: int, errors: int) -> None:
    from workbench.training.foreground import main

    os.environ.update(env)
    os.dup2(out, 1)
    os.dup2(errors, 2)
    code = main(words)
    sys.stdout.flush()
    os._exit(code)


def _import_for_training() -> None:
    from workbench.training.libraries import import_libraries

    import_libraries(threads=1)
    from workbench.training import foreground, trial_run  # noqa: F401
    from workbench.training.dataset import prepared  # noqa: F401
    from workbench.training.model import preflight, tokenizer, weights  # noqa: F401


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _import_for_training()
    serve(socket.socket(fileno=int(sys.argv[1])))
