"""The model card tells what an adapter is, and how plain PEFT loads it."""

from __future__ import annotations

from tests.training.trials import DEMO_MODEL, recipe
from workbench.adapters.published_base import PublishedBase
from workbench.training.model.card import CardFacts, model_card

COMMIT = "8cde5ca8380496c9a6cc7ef3a8b46a0372a1d920"


def test_a_card_names_hub_id_commit_hardware_and_settings() -> None:
    base = PublishedBase("org/model", COMMIT)
    facts = CardFacts("digest", "NVIDIA GeForce RTX 3090")
    scores = {"step": 7, "values": {"loss": 0.5}, "evaluation_digest": "rows"}
    local = recipe(model__name=DEMO_MODEL)
    local = local.model_copy(update={"model": local.model.model_copy(update={"name": "/my/base"})})
    card = model_card(local, scores, {"torch": "2"}, base, facts)
    assert 'base_model: "org/model"' in card
    assert f"from_pretrained('org/model', revision='{COMMIT}')" in card
    assert all(word in card for word in ("RTX 3090", "digest", "| loss | 0.5 |", "| rank |"))
    assert "/my/base" not in card


def test_a_card_says_where_the_folder_of_a_shipped_base_goes() -> None:
    scores = {"step": 7, "values": {"loss": 0.5}}
    card = model_card(recipe(model__name=DEMO_MODEL), scores, {"torch": "2"})
    assert "from_pretrained('FOLDER OF workbench:demo/model')" in card
