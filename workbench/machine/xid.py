"""NVIDIA's Xid errors: their meaning, and whether the program or the card is at fault.

Meanings follow https://docs.nvidia.com/deploy/xid-errors/. The codes that are the program's fault
and leave the card healthy follow NVIDIA/k8s-device-plugin, internal/rm/health.go.
"""

from __future__ import annotations

from enum import Enum


class Fault(Enum):
    """The part that an Xid error blames."""

    PROGRAM = "program"
    """The program failed and lost its context; the card is healthy."""
    NOTICE = "notice"
    """A notice; nothing failed."""
    CARD = "card"
    """The card is not reliable until a person has checked it."""


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
_REPAIR_HINTS = {
    48: "a reboot retires the memory row; if it comes back, the card is broken",
    64: "the card's memory is broken: have it replaced",
    79: "check its power cables and riser, then reboot",
    95: "reboot; if it comes back, the card is broken",
    119: "reboot, or update the driver",
    120: "reboot, or update the driver",
}
_BROKEN_CONTEXT = frozenset({8, 13, 31, 32, 43, 69, 94, 109})
"""Codes after which the program can run nothing more on the card. 45 is not among them, because it
also follows a kill."""


def blamed_part(code: int) -> Fault:
    """Return the part at fault. An unknown code counts as the card's fault, because a missing card
    costs less than results that cannot be trusted."""
    if code in _PROGRAM:
        return Fault.PROGRAM
    return Fault.NOTICE if code in _NOTICE else Fault.CARD


def describe(code: int) -> str:
    """Return code and meaning: `Xid 79, the card has fallen off the bus`."""
    meaning = _PROGRAM.get(code) or _NOTICE.get(code) or _CARD.get(code)
    return f"Xid {code}, {meaning}" if meaning else f"Xid {code}"


def repair_hint(code: int) -> str:
    """Return what a person can do about a code of the card."""
    return _REPAIR_HINTS.get(code, "see dmesg, and reboot")


def breaks_context(code: int) -> bool:
    """Return True if the program that caused the error can run nothing more on the card."""
    return code in _BROKEN_CONTEXT
