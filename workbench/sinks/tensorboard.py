"""TensorBoard: an event file for each trial, appended to.

The file itself says which steps it has: each is one record with all metrics of the step, and a torn
record at the end, of a process that was killed, is cut off.
"""

from __future__ import annotations

import re
import struct
import time
from collections.abc import Sequence
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c
from tensorboard.plugins.hparams.summary_v2 import hparams_pb
from tensorboard.summary.writer.record_writer import RecordWriter

from workbench.sinks.run import RunAbout
from workbench.store.queries.logged_steps import LoggedStep

_UNFIT = re.compile(r"[^A-Za-z0-9._-]+")
_HEAD, _CRC = struct.Struct("<QI"), struct.Struct("<I")
"""Before each record its length and the checksum of the length, behind it that of the record."""


class TensorBoard:
    """A folder for `tensorboard --logdir`: in it one for each experiment, and for each trial."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def open_run(self, about: RunAbout) -> TensorBoardRun:
        group = _UNFIT.sub("-", about.group).strip(".-") or "experiment"
        return TensorBoardRun(self._folder / group / about.id, about)


class TensorBoardRun:
    """One event file."""

    def __init__(self, folder: Path, about: RunAbout) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        # TensorBoard finds files with "tfevents" in their names.
        path = folder / "events.out.tfevents.0.workbench"
        whole_bytes, self.last_step = read_whole(path)
        self._file = path.open("ab")
        self._file.truncate(whole_bytes)
        self._records = RecordWriter(self._file)
        if not whole_bytes:
            self._write(Event(file_version="brain.Event:2"))
            settings = hparams_pb(about.settings, trial_id=about.id)
            self._write(Event(summary=settings))
            self._file.flush()

    def send(self, steps: Sequence[LoggedStep]) -> None:
        for step, values in steps:
            scalars = [Summary.Value(tag=k, simple_value=v) for k, v in values.items()]
            self._write(Event(step=step, summary=Summary(value=scalars)))
        self._file.flush()

    def close(self, *, failed: bool) -> None:
        self._file.close()

    def _write(self, event: Event) -> None:
        event.wall_time = time.time()
        self._records.write(event.SerializeToString())


def read_whole(path: Path) -> tuple[int, int]:
    """Return the bytes of the whole records at the file's start, and the last step in them (-1)."""
    body = path.read_bytes() if path.exists() else b""
    at, last = 0, -1
    while at + _HEAD.size <= len(body):
        length, _ = _HEAD.unpack_from(body, at)
        ends = at + _HEAD.size + length + _CRC.size
        record = body[at + _HEAD.size : ends - _CRC.size]
        if ends > len(body) or _CRC.unpack_from(body, ends - _CRC.size)[0] != masked_crc32c(record):
            break
        event = Event.FromString(record)
        if any(value.HasField("simple_value") for value in event.summary.value):
            last = int(event.step)
        at = ends
    return at, last
