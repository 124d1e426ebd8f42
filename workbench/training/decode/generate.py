"""From prompts to tokens: lanes are filled, advanced and refilled until all are answered."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from workbench.training.decode.lanes import Lanes, Prompt

LOOK_TOKENS = 8
"""Tokens between two looks of the host at the lanes that have ended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Generated:
    """The new tokens of one prompt, with the one that ended the answer."""

    ids: list[int]
    ended: bool
    """True when the model ended it, False when it was cut."""


def generate_tokens(
    lanes: Lanes,
    prompts: Sequence[Prompt],
    ends: Sequence[int],
    *,
    prefill_tokens: int,
    look: Callable[[int], None] = lambda done: None,
    answered: Callable[[int, Generated], None] = lambda index, new: None,
) -> list[Generated]:
    """Return what follows each prompt, in the prompts' order.

    Prompts are begun in that order, `prefill_tokens` of them in one pass at most; a longer one goes
    alone. `look` is called with the number of finished prompts every few tokens, `answered` with
    each prompt's index and new tokens as soon as it is finished; what they raise ends everything.
    """
    answers: dict[int, Generated] = {}
    waiting = list(range(len(prompts)))[::-1]
    running: dict[int, int] = {}
    free = list(range(lanes.lanes))[::-1]
    stops = frozenset(ends)
    while waiting or running:
        look(len(answers))
        # Reading prompts one by one would stop all lanes each time.
        if waiting and (not running or len(free) >= max(1, lanes.lanes // 8)):
            begun = _start(lanes, prompts, waiting, free, prefill_tokens)
            running |= begun
        else:
            lanes.advance(list(running), LOOK_TOKENS)
        for lane, ids in lanes.ended(list(running)).items():
            index = running.pop(lane)
            answers[index] = Generated(ids=ids, ended=ids[-1] in stops)
            free.append(lane)
            answered(index, answers[index])
    look(len(answers))
    return [answers[index] for index in range(len(prompts))]


def _start(
    lanes: Lanes,
    prompts: Sequence[Prompt],
    waiting: list[int],
    free: list[int],
    prefill_tokens: int,
) -> dict[int, int]:
    """Begin as many waiting prompts as one pass takes; return the prompt of each lane."""
    begun: dict[int, int] = {}
    tokens = 0
    while waiting and free:
        tokens += len(prompts[waiting[-1]].ids)
        if begun and tokens > prefill_tokens:
            break
        begun[free.pop()] = waiting.pop()
    lanes.start(list(begun), [prompts[index] for index in begun.values()])
    return begun
