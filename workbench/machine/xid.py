"""What NVIDIA's Xid errors mean, and whose fault they are.

After https://docs.nvidia.com/deploy/xid-errors/ and, for what is the program's fault and leaves the
card healthy, NVIDIA/k8s-device-plugin, internal/rm/health.go.
"""

from __future__ import annotations

from enum import Enum


class Fault(Enum):
    PROGRAM = "program"
    """The program on the card broke, and with it its context; the card is well."""
    NOTICE = "notice"
    """Told for the record; nothing broke."""
    CARD = "card"
    """The card is not to be trusted until somebody has looked."""


_PROGRAM = {
    8: "GPU stopped processing",
    13: "graphics engine exception",
    31: "GPU memory page fault",
    32: "invalid push buffer stream",
    43: "GPU stopped processing",
    45: "cleanup after an earlier error, or after a program was killed",
    68: "video processor exception",
    69: "graphics engine class error",
    94: "contained memory error",
    109: "context switch timeout",
}
_NOTICE = {
    63: "a memory row is to be remapped at the next reset",
    92: "many corrected memory errors",
    154: "the driver recommends another way to recover",
}
_CARD = {
    48: "memory error that could not be corrected",
    61: "internal micro-controller breakpoint",
    62: "internal micro-controller halt",
    64: "a memory row could not be remapped",
    74: "NVLink error",
    79: "the card has fallen off the bus",
    95: "uncontained memory error",
    119: "the card's own processor does not answer",
    120: "error of the card's own processor",
    140: "memory error that could not be recovered",
    143: "the card could not be initialised",
}
_MENDS = {
    48: "a reboot retires the memory row; if it comes back, the card is broken",
    64: "the card's memory is broken: have it replaced",
    79: "check its power cables and riser, then reboot",
    95: "reboot; if it comes back, the card is broken",
    119: "reboot, or update the driver",
    120: "reboot, or update the driver",
}
_BROKEN_CONTEXT = frozenset({8, 13, 31, 32, 43, 69, 94, 109})
"""After these a program can do nothing more on the card. Not 45: that follows a kill, too."""


def fault(code: int) -> Fault:
    """An unknown one is the card's: better a card too few than results nobody can trust."""
    if code in _PROGRAM:
        return Fault.PROGRAM
    return Fault.NOTICE if code in _NOTICE else Fault.CARD


def words(code: int) -> str:
    """`Xid 79, the card has fallen off the bus`."""
    told = _PROGRAM.get(code) or _NOTICE.get(code) or _CARD.get(code)
    return f"Xid {code}, {told}" if told else f"Xid {code}"


def hint(code: int) -> str:
    return _MENDS.get(code, "see dmesg, and reboot")


def breaks_context(code: int) -> bool:
    """True when the program that caused it is done for."""
    return code in _BROKEN_CONTEXT
