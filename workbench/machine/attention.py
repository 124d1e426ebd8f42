"""Which attention a card gets, and why. No torch: a package's presence and a card's capability."""

from __future__ import annotations

from importlib.util import find_spec

from workbench.errors import WorkbenchError
from workbench.machine.cards import Card

FLASH_2 = (8, 0)
"""Lowest compute capability of Flash Attention 2: Ampere (github.com/Dao-AILab/flash-attention)."""


def attention_for(
    card: Card, wanted: str, *, softcap: bool = False, flash_installed: bool | None = None
) -> tuple[str, str]:
    """What transformers is told (flash_attention_2, sdpa, eager) and the reason, in words.

    `softcap`: the model caps its attention scores (Gemma 2), which only eager does for all cards.
    Raises WorkbenchError where Flash Attention 2 is asked for by name and the card has none.
    """
    if wanted == "eager":
        return "eager", "the recipe asks for it"
    if softcap:
        return "eager", "the model caps its attention scores, which other kernels leave out"
    if card.kind == "cpu":
        return "sdpa", "PyTorch's own attention; Flash Attention 2 needs a GPU"
    if wanted == "sdpa":
        return "sdpa", "the recipe asks for it"
    if not flash_capable(card):
        return _without_flash(card, wanted)
    installed = find_spec("flash_attn") is not None if flash_installed is None else flash_installed
    if installed:
        return "flash_attention_2", f"{card.name} can, and flash-attn is installed"
    return "sdpa", f"{card.name} can do Flash Attention 2, but flash-attn is not installed"


def flash_capable(card: Card) -> bool:
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
    if card.capability is None:
        return "does not tell its own"
    return f"has {card.capability[0]}.{card.capability[1]}"
