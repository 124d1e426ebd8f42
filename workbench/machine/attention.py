"""Select the attention implementation of a card, with the reason in words.

The choice needs the card's compute capability and whether flash-attn is installed, not torch.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib.util import find_spec

from workbench.errors import WorkbenchError
from workbench.machine.cards import Card

FLASH_2 = (8, 0)
"""Lowest compute capability of Flash Attention 2: Ampere (github.com/Dao-AILab/flash-attention)."""

_ASKED = "the recipe asks for it"
_SHARED = "the other cards here decide it, since all trials of an experiment train alike"


def attention_for(
    card: Card, wanted: str, *, softcap: bool = False, flash_installed: bool | None = None
) -> tuple[str, str]:
    """Return transformers' name of the attention (flash_attention_2, sdpa, eager) and the reason.

    `wanted` is the recipe's `model.attention`. `softcap` is True for a model that caps its
    attention scores (Gemma 2), which only eager implements on every card. Raises WorkbenchError if
    the recipe demands Flash Attention 2 and the card does not support it.
    """
    if wanted == "eager":
        return "eager", _ASKED
    # Before every other choice: dropping the cap would silently change the model.
    if softcap:
        return "eager", "the model caps its attention scores, which other kernels leave out"
    if card.kind == "cpu":
        return "sdpa", "PyTorch's own attention; Flash Attention 2 needs a GPU"
    if wanted == "sdpa":
        return "sdpa", _ASKED
    if not flash_capable(card):
        return _without_flash(card, wanted)
    installed = find_spec("flash_attn") is not None if flash_installed is None else flash_installed
    if installed:
        return "flash_attention_2", f"{card.name} can, and flash-attn is installed"
    return "sdpa", f"{card.name} can do Flash Attention 2, but flash-attn is not installed"


def flash_capable(card: Card) -> bool:
    """Return True if the card's compute capability is enough for Flash Attention 2."""
    return card.kind == "cuda" and card.capability is not None and card.capability >= FLASH_2


def _without_flash(card: Card, wanted: str) -> tuple[str, str]:
    has = capability_words(card)
    if wanted == "flash_attention_2":
        raise WorkbenchError(
            f"Flash Attention 2 needs compute capability 8.0 (RTX 30 or newer); {card.name} {has}",
            hint="set model.attention: auto, and this card trains with PyTorch's own attention",
        )
    return "sdpa", f"Flash Attention 2 needs compute capability 8.0; {card.name} {has}"


def capability_words(card: Card) -> str:
    """Return the predicate of a sentence about the card's compute capability: `has 7.5`."""
    if card.capability is None:
        return "does not report its own"
    return f"has {card.capability[0]}.{card.capability[1]}"


def best_precision(cards: Iterable[Card]) -> str:
    """Return the best precision that every GPU of `cards` has; fp32 where there is no GPU."""
    # A trial may resume on any card of the home, so the weakest one decides.
    capabilities = [card.capability or (0, 0) for card in cards if card.kind == "cuda"]
    if not capabilities:
        return "fp32"
    return "bf16" if min(capabilities) >= FLASH_2 else "fp16"


def precision_reason(card: Card, precision: str, shared: str) -> str:
    """Return why a trial trains in `precision` (bf16, fp16 or fp32) on the card.

    `shared` is the precision of recipes that name none, which the other cards decide, too.
    """
    if precision != best_precision([card]):
        return _SHARED if precision == shared else _ASKED
    if card.kind == "cpu":
        return "a CPU card trains in full precision"
    return f"bf16 needs compute capability 8.0, and the card {capability_words(card)}"
