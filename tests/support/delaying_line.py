"""A line that delays: `delaying_line.py TAP TAP SECONDS` passes frames between two TAP devices.

It makes both devices. Every frame of either one leaves the other one SECONDS later, in order.
"""

from __future__ import annotations

import fcntl
import os
import select
import struct
import sys
import time
from collections import deque

TUNSETIFF, IFF_TAP, IFF_NO_PI = 0x400454CA, 0x0002, 0x1000  # linux/if_tun.h
FRAME_BYTES = 1 << 16


def make_tap(name: str) -> int:
    """Return the descriptor of a new TAP device, which goes when it is closed."""
    handle = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(handle, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TAP | IFF_NO_PI))
    return handle


def pass_frames(one: int, other: int, delay_s: float) -> None:
    """Pass frames both ways until the process is ended."""
    on_their_way: deque[tuple[float, int, bytes]] = deque()
    to = {one: other, other: one}
    while True:
        wait_s = max(0.0, on_their_way[0][0] - time.monotonic()) if on_their_way else None
        for source in select.select([one, other], [], [], wait_s)[0]:
            try:
                frame = os.read(source, FRAME_BYTES)
            except OSError:  # the device is down
                continue
            on_their_way.append((time.monotonic() + delay_s, to[source], frame))
        while on_their_way and on_their_way[0][0] <= time.monotonic():
            _, target, frame = on_their_way.popleft()
            try:
                os.write(target, frame)
            except OSError:  # lost, as on a line that is cut
                continue


if __name__ == "__main__":
    first, second, seconds = sys.argv[1:]
    pass_frames(make_tap(first), make_tap(second), float(seconds))
