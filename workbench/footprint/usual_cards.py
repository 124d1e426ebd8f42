"""Usual cards by their everyday names: bytes and compute capability, for plans without the card.

MiB as NVIDIA's driver reports the total (nvidia-smi, with ECC as the card ships); capabilities
from NVIDIA's table, developer.nvidia.com/cuda-gpus.
"""

from __future__ import annotations

import difflib

from workbench.errors import UsageError
from workbench.machine.cards import Card
from workbench.text import safe_line

MIB = 1 << 20
GIB = 1 << 30
SIZES_GB = (8, 12, 16, 24, 32, 48, 80)
"""Sizes that `plan` also shows, besides the card asked about."""
SIZE_CAPABILITY = (8, 6)
"""Compute capability of a card known by its size alone: that of an RTX 30, the oldest with bf16 and
Flash Attention 2."""

_CARDS: dict[str, tuple[str, int, tuple[int, int]]] = {
    "p40": ("Tesla P40", 22_919, (6, 1)),
    "p100": ("Tesla P100 16 GB", 16_280, (6, 0)),
    "v100": ("Tesla V100 16 GB", 16_384, (7, 0)),
    "v100-32gb": ("Tesla V100 32 GB", 32_768, (7, 0)),
    "t4": ("Tesla T4", 15_360, (7, 5)),
    "2080ti": ("RTX 2080 Ti", 11_264, (7, 5)),
    "3060": ("RTX 3060", 12_288, (8, 6)),
    "3060ti": ("RTX 3060 Ti", 8_192, (8, 6)),
    "3070": ("RTX 3070", 8_192, (8, 6)),
    "3070ti": ("RTX 3070 Ti", 8_192, (8, 6)),
    "3080": ("RTX 3080", 10_240, (8, 6)),
    "3080ti": ("RTX 3080 Ti", 12_288, (8, 6)),
    "3090": ("RTX 3090", 24_576, (8, 6)),
    "3090ti": ("RTX 3090 Ti", 24_564, (8, 6)),
    "4060": ("RTX 4060", 8_188, (8, 9)),
    "4060ti": ("RTX 4060 Ti 8 GB", 8_188, (8, 9)),
    "4060ti-16gb": ("RTX 4060 Ti 16 GB", 16_380, (8, 9)),
    "4070": ("RTX 4070", 12_282, (8, 9)),
    "4070super": ("RTX 4070 SUPER", 12_282, (8, 9)),
    "4070ti": ("RTX 4070 Ti", 12_282, (8, 9)),
    "4070tisuper": ("RTX 4070 Ti SUPER", 16_376, (8, 9)),
    "4080": ("RTX 4080", 16_376, (8, 9)),
    "4080super": ("RTX 4080 SUPER", 16_376, (8, 9)),
    "4090": ("RTX 4090", 24_564, (8, 9)),
    "5060ti": ("RTX 5060 Ti 8 GB", 8_151, (12, 0)),
    "5060ti-16gb": ("RTX 5060 Ti 16 GB", 16_311, (12, 0)),
    "5070": ("RTX 5070", 12_227, (12, 0)),
    "5070ti": ("RTX 5070 Ti", 16_303, (12, 0)),
    "5080": ("RTX 5080", 16_303, (12, 0)),
    "5090": ("RTX 5090", 32_607, (12, 0)),
    "a10": ("A10", 23_028, (8, 6)),
    "a40": ("A40", 46_068, (8, 6)),
    "a4000": ("RTX A4000", 16_376, (8, 6)),
    "a5000": ("RTX A5000", 24_564, (8, 6)),
    "a6000": ("RTX A6000", 49_140, (8, 6)),
    "l4": ("L4", 23_034, (8, 9)),
    "l40s": ("L40S", 46_068, (8, 9)),
    "a100-40gb": ("A100 40 GB", 40_960, (8, 0)),
    "a100-80gb": ("A100 80 GB", 81_920, (8, 0)),
    "h100": ("H100 80 GB", 81_559, (9, 0)),
    "h200": ("H200", 143_771, (9, 0)),
}
"""Bytes in MiB and compute capability by everyday name. A card that is sold in two sizes is meant
to be the smaller one, so that a plan for it holds on both."""


def usual_card(name: str) -> Card:
    """Return the card called `3090`, `RTX 4090` or `a100-80gb`.

    Raises UsageError for any other, with the name that was most probably meant. A name that is
    only somewhat similar is no suggestion: a 6090 is not a mistyped 5090.
    """
    key = everyday_name(name)
    keys = {everyday_name(word): word for word in _CARDS}
    if key not in keys:
        near = [word for plain, word in keys.items() if key and plain.startswith(key)]
        bare = key.removesuffix("super").removesuffix("ti")  # there is no 4090 Ti
        near = near or [word for plain, word in keys.items() if plain == bare]
        family = [plain for plain in keys if plain[:2] == key[:2]]
        near = near or [keys[one] for one in difflib.get_close_matches(key, family, 1, 0.7)]
        raise UsageError(
            f"{safe_line(name, 40)} is not a known card",
            hint=(f"did you mean {' or '.join(near[:3])}? " if near else "")
            + f"There are {', '.join(_CARDS)}; any other by its size: --vram 24GiB",
        )
    words, mib, capability = _CARDS[keys[key]]
    return Card(
        uuid=f"usual-{keys[key]}",
        kind="cuda",
        name=words,
        total_bytes=mib * MIB,
        capability=capability,
    )


def card_of_size(total_bytes: int, name: str) -> Card:
    """Return a card of which only the size is known."""
    return Card(
        uuid="usual-size",
        kind="cuda",
        name=name,
        total_bytes=total_bytes,
        capability=SIZE_CAPABILITY,
    )


def everyday_name(name: str) -> str:
    """Return `3090` for `NVIDIA GeForce RTX 3090`: lower case, without makers and series."""
    plain = name.lower().replace(" ", "").replace("-", "").replace("_", "")
    for maker in ("nvidia", "geforce", "rtx", "tesla"):
        plain = plain.replace(maker, "")
    return plain
