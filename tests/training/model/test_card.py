"""The model card tells what an adapter is, and how plain PEFT loads it."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from peft import PeftModel

from tests.training.model.bases import DEMO
from tests.training.trials import DEMO_MODEL, Bench, recipe
from workbench.adapters.published_base import PublishedBase
from workbench.training.model.card import CardFacts, model_card

COMMIT = "8cde5ca8380496c9a6cc7ef3a8b46a0372a1d920"


def test_the_lines_of_the_card_load_the_adapter(tmp_path: Path) -> None:
    bench = Bench(tmp_path, recipe(model__name=DEMO_MODEL, model__quantization="nf4"))
    bench.run()
    folder = bench.trial / "adapter"
    card = (folder / "README.md").read_text()
    assert "digest of the prepared rows" in card
    assert str(tmp_path) not in card
    (code,) = re.findall(r"```python\n(.*?)```", card, re.S)
    assert len(code.strip().splitlines()) == 5
    code = code.replace("THIS FOLDER", str(folder)).replace(
        "FOLDER OF workbench:demo/model", str(DEMO)
    )
    names: dict[str, object] = {}
    exec(code, names)  # noqa: S102 - our own card
    model, tokenizer = names["model"], names["tokenizer"]
    assert isinstance(model, PeftModel)
    ids = tokenizer("1 + 1", return_tensors="pt")["input_ids"]  # type: ignore[operator]
    assert torch.isfinite(model(ids).logits).all()


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
