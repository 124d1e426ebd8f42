"""`workbench plan`: what a recipe takes on a card, shown without GPU, weights or torch."""

from __future__ import annotations

import itertools
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import Workbench
from tests.support.tick_contexts import TINY, Bench, gpu_card, make_bench
from workbench.cli.recipes.run import check_ever_fits
from workbench.errors import DoesNotFit, WorkbenchError
from workbench.footprint import named_config
from workbench.footprint.sweeps.card_outlooks import card_outlooks
from workbench.footprint.usual_cards import usual_card
from workbench.home import Home
from workbench.recipe import Recipe, find_recipe, load_recipe
from workbench.service import Service

KEYS = {"fits", "peak_bytes", "card_bytes", "buckets", "plan", "suggestions"}
GUIDE = "llama3-8b-qlora"
RANGES = (
    "sweep={method: random, trials: 4, parameters: {lora.rank: {min: 4, max: 99, integer: true}}}"
)


def test_the_guides_recipe_fits_a_3090(workbench: Workbench) -> None:
    said = workbench("plan", GUIDE, "--card", "3090", "--json")
    assert said.code == 0
    assert set(said.data) >= KEYS
    assert said.data["fits"] is True
    assert said.data["peak_bytes"] == sum(said.data["buckets"].values())
    assert said.data["peak_bytes"] <= said.data["card_bytes"] == 24 << 30
    sizes = [one["card"] for one in said.data["usual"]]
    assert sizes == [f"{gb} GB" for gb in (8, 12, 16, 24, 32, 48, 80)]


def test_what_does_not_fit_is_exit_code_one_and_every_setting_named_then_fits(
    workbench: Workbench,
) -> None:
    asked = [GUIDE, "-s", "data.max_tokens=8192", "--vram", "7GiB", "--json"]
    said = workbench("plan", *asked)
    assert (said.code, said.data["fits"]) == (1, False)
    settings = [one["settings"] for one in said.data["suggestions"] if one["settings"]]
    assert settings
    for changes in settings:
        changed = [word for key, value in changes.items() for word in ("-s", f"{key}={value}")]
        assert workbench("plan", *asked, *changed).code == 0


@pytest.mark.parametrize(
    ("recipe", "settings", "size"),
    [
        (f"{GUIDE}-sweep", (), "8GiB"),
        (f"{GUIDE}-sweep", ("model.quantization=none", "data.max_tokens=8192"), "9GiB"),
        (GUIDE, (RANGES,), "8GiB"),
        (GUIDE, ("train.gradient_checkpointing=off", "train.optimizer=adamw_torch"), "8GiB"),
    ],
)
def test_every_suggestion_works_when_it_is_applied(
    recipe: str, settings: tuple[str, ...], size: str, workbench: Workbench
) -> None:
    asked = ["plan", recipe, *(word for one in settings for word in ("-s", one)), "--json"]
    said = workbench(*asked, "--vram", size)
    assert said.code == 1
    suggestions = said.data["suggestions"]
    assert len(suggestions) > 1
    for one in suggestions[:-1]:
        changes = [f"{key}={json.dumps(value)}" for key, value in one["settings"].items()]
        changed = [word for change in changes for word in ("-s", change)]
        assert workbench(*asked, *changed, "--vram", size).code == 0, one["words"]
    needed = suggestions[-1]["words"].rsplit(" needs ")[1].replace(" ", "")
    assert workbench(*asked, "--vram", needed).code == 0


def test_rows_longer_than_the_model_reads_are_warned_of(workbench: Workbench) -> None:
    asked = ("plan", GUIDE, "-s", "data.max_tokens=16384", "--vram", "80GiB")
    assert "more than the 8,192 tokens that the model reads" in workbench(*asked).out
    (warning,) = workbench(*asked, "--json").data["warnings"]
    assert "set it to 8192 or less" in warning
    assert workbench("plan", GUIDE, "--json").data["warnings"] == []


@pytest.mark.parametrize("wrong", ["[q_prj]", "[q_proj, v_prj]", "[c_attn]"])
def test_targets_that_the_model_lacks_are_a_warning(workbench: Workbench, wrong: str) -> None:
    asked = ("plan", GUIDE, "-s", f"lora.targets={wrong}", "--json")
    (warning,) = workbench(*asked).data["warnings"]
    assert warning.startswith(f"lora.targets: this model has no {wrong.strip('[]').split()[-1]}")
    assert "it has q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj" in warning


def test_a_llamas_projections_are_no_typos_for_a_fused_model(workbench: Workbench) -> None:
    asked = ("plan", GUIDE, "-s", "model.name=microsoft/Phi-3-mini-4k-instruct")
    for targets in ("[q_proj, o_proj]", "[qkv_proj]", "all-linear"):
        said = workbench(*asked, "-s", f"lora.targets={targets}", "--json")
        assert said.data["warnings"] == []


def test_a_page_for_people_stays_within_the_terminal(workbench: Workbench) -> None:
    said = workbench("plan", GUIDE, "--card", "t4")
    assert said.code == 0
    for words in ("fits: peak", "micro-step", "recompute", "Tesla T4", "\n24 GB ", "bytes of"):
        assert words in said.out
    bar = next(line for line in said.out.splitlines() if line.startswith("  ["))
    assert len(bar) == 80


def test_what_does_not_fit_comes_with_suggestions(workbench: Workbench) -> None:
    said = workbench("plan", GUIDE, "--vram", "4GiB")
    assert said.code == 1
    assert "does not fit: the leanest way needs" in said.out
    assert "  → use a card of 8 GB" in said.out


def test_the_trials_of_a_sweep_and_its_finals_are_counted(workbench: Workbench) -> None:
    finals = "sweep.finals={top: 2, seeds: 4}"
    told = workbench("plan", "demo", "--card", "3090", "-s", finals)
    assert "6 trials, then 8 in finals: the best settings again with 4 new seeds each" in told.out
    found = workbench("plan", "demo", "--card", "3090", "-s", finals, "--json").data
    assert (found["trials"], found["finals"]) == (6, 8)


def test_of_a_sweep_the_worst_case_is_planned(workbench: Workbench) -> None:
    said = workbench("plan", f"{GUIDE}-sweep", "--card", "4090", "--json").data
    assert said["point"] == {"lora.rank": 64}
    alone = workbench("plan", GUIDE, "-s", "lora.rank=64", "--card", "4090", "--json").data
    assert said["peak_bytes"] == alone["peak_bytes"]


def test_the_cards_here_are_meant_where_they_are_known(bench: Bench, workbench: Workbench) -> None:
    said = workbench("plan", "demo", "--json").data
    assert (said["card"], said["plan"]["precision"]) == ("CPU card", "fp32")


def test_where_no_engine_ran_the_cards_a_person_named_are_asked(
    workbench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORKBENCH_CARDS", "cpu:300MiB")
    said = workbench("plan", "demo", "--json")
    assert (said.code, said.data["card"], said.data["fits"]) == (1, "CPU card 0", False)


@pytest.mark.parametrize("command", ["cards", "plan demo", "check demo"])
def test_cards_that_cannot_be_read_are_an_error_before_anything_else(
    command: str, workbench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORKBENCH_CARDS", "bogus (x")
    said = workbench(*command.split())
    assert (said.code, said.out) == (2, "")
    assert "WORKBENCH_CARDS: cannot read 'bogus (x'\n" in said.err
    assert "WORKBENCH_CARDS=cpu:8GiB,cpu:8GiB" in said.err
    monkeypatch.setenv("WORKBENCH_CARDS", "GPU-abc=8GiB")
    said = workbench(*command.split())
    assert (said.code, said.out) == (3, "")
    assert "there is no card GPU-abc" in said.err


def test_a_driver_that_does_not_answer_holds_nobody_up(
    workbench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workbench.cli.machine.cards.ASK_S", 0.0)
    said = workbench("plan", GUIDE)
    assert (said.code, "no card is known here" in said.out) == (0, True)
    assert "the cards could not be asked" in said.err
    said = workbench("cards")
    assert (said.code, said.out) == (1, "")
    assert "`workbench doctor` shows more" in said.err


def test_a_size_without_its_unit_is_no_card(workbench: Workbench) -> None:
    said = workbench("plan", GUIDE, "--vram", "24")
    assert said.code == 2
    assert "'24' is 24 bytes, too little for a card" in said.err
    assert "like 24GiB" in said.err


def test_shares_are_of_the_card_also_where_nothing_fits(workbench: Workbench) -> None:
    said = workbench("plan", GUIDE, "--vram", "4GiB")
    assert "there is room for 3.5 GiB" in said.out
    base = next(line for line in said.out.splitlines() if line.startswith("B  base"))
    assert base.split()[-1] == "96%"  # 3.4 of 3.5 GiB


@pytest.mark.parametrize("asked", [("--card", "3090"), ()])
def test_what_such_a_card_measured_corrects_the_plan(
    asked: tuple[str, ...], home: Home, workbench: Workbench, tmp_path: Path
) -> None:
    bench = make_bench(tmp_path, [gpu_card(0, name="NVIDIA GeForce RTX 3090")])
    config = named_config("meta-llama/Meta-Llama-3-8B")
    bench.submit(load_recipe(find_recipe(GUIDE), []), config)
    before = workbench("plan", GUIDE, *asked, "--json").data
    predicted = sum(before["buckets"].values())
    for _ in range(3):
        attempt = bench.store.add_attempt(2, "GPU-0", before["plan"], predicted, 0)
        bench.store.touch_attempt(attempt, peak_bytes=int(predicted * 1.05))
        bench.store.end_attempt(attempt, "done", "")
    after = workbench("plan", GUIDE, *asked, "--json").data
    assert (before["peak_bytes"], before["measured_factor"]) == (predicted, 1)
    assert after["measured_factor"] == pytest.approx(1.05, abs=1e-3)
    assert after["peak_bytes"] == int(sum(after["buckets"].values()) * 1.05)
    assert after["peak_bytes"] <= after["room_bytes"]
    assert re.search(r"measured +× 1\.05", workbench("plan", GUIDE, *asked).out)
    other = workbench("plan", GUIDE, "--card", "4090", "--json").data
    assert other["measured_factor"] == 1
    bench.context.fleet.close()
    bench.store.close()


def test_what_no_card_here_could_ever_take_is_refused_at_submission(
    bench: Bench, workbench: Workbench, home: Home
) -> None:
    bench.store.db.execute("update cards set total_bytes = 4 << 30")
    said = workbench("run", GUIDE)
    assert (said.code, said.out) == (1, "")
    assert "no card here can ever take it: llama3-8b-qlora needs at least" in said.err
    assert "use a card with " in said.err
    assert list(home.requests.iterdir()) == []


def test_a_sweep_is_not_refused_at_submission_for_a_value_that_it_replaces(bench: Bench) -> None:
    bench.store.db.execute("update cards set total_bytes = 8 << 30")
    recipe = load_recipe(find_recipe(GUIDE), ["data.packing=true", "data.max_tokens=500000"])
    with pytest.raises(DoesNotFit):
        check_ever_fits(Service(), recipe)
    sweep = {"parameters": {"data.max_tokens": [256, 512]}}
    check_ever_fits(Service(), Recipe.model_validate({**recipe.model_dump(), "sweep": sweep}))


def test_a_card_nobody_knows_names_the_nearest(workbench: Workbench) -> None:
    said = workbench("plan", "demo", "--card", "rtx 3090x")
    assert (said.code, said.out) == (2, "")
    assert "did you mean 3090?" in said.err
    assert workbench("plan", "demo", "--card", "3090", "--vram", "8GiB").code == 2
    assert workbench("plan", "demo", "--vram", "big").code == 2


def test_precision_that_the_card_lacks_is_an_error(workbench: Workbench) -> None:
    said = workbench("plan", "demo", "-s", "model.precision=bf16", "--card", "t4")
    assert said.code == 1
    assert "bf16 needs compute capability" in said.err


def test_cards_that_lack_the_precision_do_not_speak_for_those_that_have_it() -> None:
    recipe = Recipe.model_validate(
        {
            "name": "x",
            "model": {"name": "a/b", "precision": "bf16"},
            "data": {"train": "/d.jsonl"},
        }
    )
    cards = [usual_card(name) for name in ("t4", "3060", "3090", "3090")]
    looked = card_outlooks(recipe, TINY, cards)
    assert [one.card.name for one in looked] == ["RTX 3090", "RTX 3060"]
    with pytest.raises(WorkbenchError, match="bf16 needs compute capability"):
        card_outlooks(recipe, TINY, cards[:1])


def test_a_model_in_the_hubs_cache_needs_its_config_alone(
    workbench: Workbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    asked = ("plan", "demo", "-s", "model.name=someone/tiny", "--vram", "8GiB")
    gone = workbench(*asked)
    assert gone.code == 1
    assert "hf download someone/tiny config.json" in gone.err
    snapshot = tmp_path / "models--someone--tiny" / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text(json.dumps(TINY))
    assert "the hub's cache" in workbench(*asked).out
    (snapshot / "config.json").write_text("[")
    assert "is not JSON" in workbench(*asked).err


def test_a_family_without_a_formula_is_no_promise(workbench: Workbench, tmp_path: Path) -> None:
    odd = {**TINY, "model_type": "falcon_h1", "hidden_size": 2048, "num_hidden_layers": 24}
    (tmp_path / "config.json").write_text(json.dumps(odd))
    asked = ("plan", "demo", "-s", f"model.name={tmp_path}", "--vram", "16GiB")
    said = workbench(*asked)
    assert "warning: there is no formula for falcon_h1" in said.out
    assert re.search(r"may fit: peak .* GiB \(between .* and .*\) of", said.out)
    found = workbench(*asked, "--json").data
    assert found["family"] == {
        "name": "falcon_h1",
        "fused": False,
        "measured": False,
        "counted": False,
    }
    least, most = found["range_bytes"]
    assert least < found["peak_bytes"] < most


def test_planning_loads_nothing_heavy(home: Home) -> None:
    heavy = "{'torch', 'transformers', 'ray', 'textual', 'datasets', 'huggingface_hub', 'numpy'}"
    script = f"""
import sys
from workbench.cli import main
assert main(["plan", "{GUIDE}-sweep", "--vram", "6GiB"]) == 1
print(sorted({heavy} & set(sys.modules)), file=sys.stderr)
"""
    command = [sys.executable, "-c", script]
    said = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert said.stderr == "[]\n"


def model_in(folder: Path, config: dict[str, object]) -> str:
    (folder / "model.safetensors").write_bytes(b"")
    (folder / "config.json").write_text(json.dumps(config))
    return f"model.name={folder}"


MINISTRAL: dict[str, object] = {
    "model_type": "ministral3",
    "hidden_size": 5120,
    "num_hidden_layers": 40,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "intermediate_size": 16_384,
    "vocab_size": 131_072,
}
UNTRAINABLE: dict[str, tuple[dict[str, object], str, str]] = {
    "no text model": (
        {"model_type": "llava", "text_config": MINISTRAL},
        "llava, for which transformers",
        "model_type: ministral3",
    ),
    "unknown": ({**MINISTRAL, "model_type": "ministral9"}, "does not have", "a newer transformers"),
    "experts": ({**MINISTRAL, "num_experts": 8}, "mixture of experts", "choose a dense model"),
    "no decoder": ({"model_type": "mamba2"}, "has no num_attention_heads", "choose a decoder"),
}


# `check` refuses in a child, as the engine does, by the function that `plan` calls.
@pytest.mark.parametrize(
    ("command", "case"),
    [("check", "unknown"), *itertools.product(["plan", "run"], UNTRAINABLE)],
)
def test_a_model_that_cannot_be_trained_is_refused_by_every_command(
    command: str, case: str, workbench: Workbench, tmp_path: Path
) -> None:
    config, what, hint = UNTRAINABLE[case]
    said = workbench(command, "demo", "-s", model_in(tmp_path, config))
    assert said.code not in (0, None)
    words = " ".join(said.err.split())
    assert what in words
    assert hint in words


def test_an_architecture_without_a_formula_is_never_promised_to_fit(
    workbench: Workbench, tmp_path: Path
) -> None:
    named = model_in(tmp_path, {**MINISTRAL, "model_type": "falcon_h1"})
    said = workbench("plan", GUIDE, "-s", named, "--vram", "16GiB")
    assert said.code == 1
    assert "cannot be told: peak" in said.out
    assert "`workbench check` counts the weights exactly" in said.out
    assert "there is no formula for falcon_h1" in said.out
    data = workbench("plan", GUIDE, "-s", named, "--vram", "16GiB", "--json").data
    least, most = data["range_bytes"]
    assert data["fits"] is False
    assert least < data["room_bytes"] < most


def test_counts_in_a_strangers_config_are_not_believed(
    workbench: Workbench, tmp_path: Path
) -> None:
    lie = {"linear": 1, "other": 1, "largest": 1, "layers": [], "projections": {}}
    named = model_in(tmp_path, {**MINISTRAL, "workbench_weight_counts": lie})
    data = workbench("plan", GUIDE, "-s", named, "--vram", "80GiB", "--json").data
    assert data["buckets"]["base"] > 5 << 30


@pytest.mark.parametrize(
    ("settings", "size", "words"),
    [
        (["data.max_tokens=2048"], "8GiB", "embeddings in host memory (1.0 GiB)"),
        (["model.name=meta-llama/Llama-3.2-3B", "data.max_tokens=32768"], "8GiB",
         "on the card: the head is the same matrix"),
        (["lora.targets=[q_proj, embed_tokens]", "data.max_tokens=5632"], "8GiB",
         "on the card: they have an adapter"),
        (["data.max_tokens=512"], "24GiB", ""),
    ],
)  # fmt: skip
def test_a_plan_says_where_tables_of_embeddings_are(
    settings: list[str], size: str, words: str, workbench: Workbench
) -> None:
    asked = [word for one in [*settings, "train.batch_size=1"] for word in ("-s", one)]
    said = workbench("plan", GUIDE, *asked, "--vram", size)
    assert said.code == 0
    rows = [line.split(maxsplit=1)[1] for line in said.out.splitlines() if "  tables " in line]
    assert rows == ([words] if words else [])
