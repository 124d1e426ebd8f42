"""Each card gets the right attention implementation."""

from __future__ import annotations

import pytest

from workbench.errors import WorkbenchError
from workbench.machine.attention import attention_for
from workbench.machine.cards import Card


def card(name: str, capability: tuple[int, int] | None) -> Card:
    return Card(uuid="GPU-1", kind="cuda", name=name, total_bytes=24 << 30, capability=capability)


ADA = card("RTX 4090", (8, 9))
T4 = card("Tesla T4", (7, 5))
V100 = card("Tesla V100", (7, 0))
CPU = Card(uuid="cpu-0", kind="cpu", name="CPU card 0", total_bytes=8 << 30)


def test_a_new_card_with_the_package_gets_flash_attention() -> None:
    name, why = attention_for(ADA, "auto", flash_installed=True)
    assert name == "flash_attention_2"
    assert "RTX 4090" in why


@pytest.mark.parametrize("wanted", ["auto", "flash_attention_2"])
def test_without_the_package_a_new_card_gets_sdpa_and_the_reason(wanted: str) -> None:
    name, why = attention_for(ADA, wanted, flash_installed=False)
    assert name == "sdpa"
    assert "flash-attn is not installed" in why


@pytest.mark.parametrize("old", [T4, V100, card("mystery", None)])
def test_an_old_card_gets_sdpa_and_the_reason(old: Card) -> None:
    name, why = attention_for(old, "auto", flash_installed=True)
    assert name == "sdpa"
    assert old.name in why


@pytest.mark.parametrize("old", [T4, V100])
def test_flash_attention_by_name_is_refused_politely_on_an_old_card(old: Card) -> None:
    with pytest.raises(WorkbenchError, match=r"compute capability 8\.0") as refused:
        attention_for(old, "flash_attention_2", flash_installed=True)
    assert "model.attention: auto" in refused.value.hint


def test_a_cpu_card_gets_sdpa() -> None:
    assert attention_for(CPU, "flash_attention_2", flash_installed=True)[0] == "sdpa"


@pytest.mark.parametrize("wanted", ["auto", "sdpa", "flash_attention_2"])
def test_capped_scores_stay_on_a_path_that_has_the_cap(wanted: str) -> None:
    name, why = attention_for(ADA, wanted, softcap=True, flash_installed=True)
    assert name == "eager"
    assert "caps" in why


@pytest.mark.parametrize("wanted", ["sdpa", "eager"])
def test_what_the_recipe_names_is_taken(wanted: str) -> None:
    assert attention_for(ADA, wanted, flash_installed=True)[0] == wanted


def test_a_package_is_looked_for_without_importing_it() -> None:
    assert attention_for(ADA, "auto")[0] in ("sdpa", "flash_attention_2")
