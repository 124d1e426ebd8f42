"""One attempt, from its assignment to its end event."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import AutoPeftModelForCausalLM, PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from tests.training.model.bases import seeing
from tests.training.step.conftest import SEEING
from tests.training.trials import CARD, DEMO_MODEL, Bench, halt_at, plan, recipe
from workbench.adapters.adapter_folder import WEIGHTS
from workbench.attempts.events import Outcome
from workbench.errors import RecipeError
from workbench.export.merge import merge_adapter
from workbench.export.trl_script import write_trl_script
from workbench.fleet import Halt
from workbench.machine.cards import Card
from workbench.recipe import load_recipe, shipped_file
from workbench.training import libraries
from workbench.training.checkpoints.checkpoint import COMMIT, json_digest, newest_verified
from workbench.training.control import Control
from workbench.training.model.base import DTYPES, ResidentBase
from workbench.training.model.weights import model_loader

ANSWERS = {"evaluate__answer_pattern": r"####\s*(\S+)", "evaluate__max_new_tokens": 24}
SHORT_ANSWERS = {"evaluate__answer_pattern": r"^(\d+)", "evaluate__max_new_tokens": 4}


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Bench, Any]:
    """Return one whole trial with every feature switched on."""
    settings = recipe(model__name=DEMO_MODEL, evaluate__every=2, **ANSWERS)
    bench = Bench(tmp_path_factory.mktemp("home"), settings)
    return bench, bench.run()


def test_a_trial_runs_to_its_end_and_its_last_event_is_the_end(done: tuple[Bench, Any]) -> None:
    _, log = done
    assert log.outcome is Outcome.DONE, log.end
    assert log.events[-1][0] == "end"
    assert log.end["step"] == 6


def test_phases_come_in_order(done: tuple[Bench, Any]) -> None:
    names = [phase["name"] for phase in done[1].of("phase")]
    assert list(dict.fromkeys(names)) == [
        "preparing", "loading", "training", "evaluating", "saving",
    ]  # fmt: skip


def test_the_start_names_plan_and_versions(done: tuple[Bench, Any]) -> None:
    (started,) = done[1].of("started")
    assert started["plan"]["rows_per_step"] == 4
    public = torch.__version__.partition("+")[0]  # some wheels tell the rest elsewhere
    assert started["versions"]["torch"].partition("+")[0] == public


def test_metric_rows_carry_what_the_screen_shows(done: tuple[Bench, Any]) -> None:
    rows = [row for row in done[1].of("metric") if "loss" in row["values"]]
    assert [row["step"] for row in rows] == [2, 4, 6]
    wanted = {"loss", "learning_rate", "grad_norm", "tokens_per_s", "peak_bytes", "step_s"}
    assert all(wanted <= set(row["values"]) for row in rows)
    assert all(math.isfinite(value) for row in rows for value in row["values"].values())


def test_held_out_loss_comes_at_its_cadence_and_at_the_end(done: tuple[Bench, Any]) -> None:
    rows = [row for row in done[1].of("metric") if "eval_loss" in row["values"]]
    assert [row["step"] for row in rows] == [2, 4, 6]
    assert rows[-1]["values"]["eval_loss"] == done[1].scores["loss"]


def test_checkpoints_come_at_their_cadence_and_at_the_end(done: tuple[Bench, Any]) -> None:
    assert [row["step"] for row in done[1].of("checkpoint")] == [2, 4, 6]


def test_without_evaluations_checkpoints_come_at_their_cadence_and_at_the_end(
    tmp_path: Path,
) -> None:
    log = Bench(tmp_path, recipe(train__log_every=6)).run()
    assert [row["step"] for row in log.of("checkpoint")] == [4, 6]


def test_training_lowers_the_held_out_loss(done: tuple[Bench, Any]) -> None:
    told = [row["values"].get("eval_loss") for row in done[1].of("metric")]
    losses = [loss for loss in told if loss is not None]
    assert losses[-1] < losses[0]


def test_answers_are_scored_and_a_few_kept_for_reading(done: tuple[Bench, Any]) -> None:
    _, log = done
    assert 0 <= log.scores["exact_match"] <= 1
    assert log.scores["answers"] == 8
    assert len(log.of("sample")) == 3
    assert set(log.of("sample")[0]) == {"question", "expected", "answer", "right"}


def test_nothing_is_printed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    Bench(tmp_path, recipe(train__max_steps=2)).run()
    assert capfd.readouterr() == ("", "")


def logits_of_saved(
    home: Path, precision: str, card: Card = CARD, **settings: Any
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The logits of one row: by the trained model as it saved its adapter; by that adapter in plain
    PEFT on a plain base; by the base alone."""
    made, seen, resident = (
        recipe(**{"model__name": DEMO_MODEL, "train__epochs": 4, **settings}),
        [],
        ResidentBase(),
    )
    ids = torch.arange(3, 90, device=card.kind)[None]

    def logits(model: Any) -> torch.Tensor:
        with torch.no_grad():
            found: torch.Tensor = model.eval()(ids).logits.float()
        return found

    def on(kind: str, data: Any, control: Any) -> None:
        if kind == "adapter":
            assert resident._held is not None
            seen.append(logits(resident._held.model))

    bench = Bench(home, made, plan=plan(precision=precision), card=card)
    assert bench.run(resident=resident, on=on).outcome is Outcome.DONE
    base = AutoModelForCausalLM.from_pretrained(
        str(shipped_file("workbench:demo/model")), dtype=DTYPES[precision]
    ).to(card.kind)
    plain = logits(base)
    tuned = PeftModel.from_pretrained(base, bench.trial / "adapter")
    return seen[0], logits(tuned), plain


def test_the_saved_adapter_gives_the_same_logits_in_plain_peft(tmp_path: Path) -> None:
    trained, loaded, plain = logits_of_saved(tmp_path, "fp32", train__epochs=1)
    torch.testing.assert_close(loaded, trained, rtol=1e-4, atol=1e-4)
    assert float((trained - plain).abs().max()) > 0.1


def weight_names(folder: Path) -> set[str]:
    return set(load_file(folder / "model.safetensors"))


@pytest.mark.parametrize("family", SEEING)
def test_only_the_text_part_of_a_vision_model_is_trained(family: str, tmp_path: Path) -> None:
    """Gemma 3 from 4B on, Gemma 4 and Mistral 3 have a vision tower, which gets no adapter."""
    folder, loader = seeing(tmp_path / "model", family), model_loader(family)
    steps = {"train__save_every": 2, "evaluate__every": 2, "train__max_steps": 3}
    settings = recipe(model__name=str(folder), **steps, **SHORT_ANSWERS)
    bench = Bench(tmp_path / "home", settings, plan=plan(recompute_layers=2, layers=2))
    log = bench.run()
    assert log.outcome is Outcome.DONE, log.end
    assert "no fused_lora" not in " ".join(row["text"] for row in log.of("log"))
    names = load_file(bench.trial / "adapter" / WEIGHTS)
    assert names
    assert all(".language_model." in name for name in names)
    plain = loader.from_pretrained(folder)
    ids = torch.arange(3, 60)[None]
    with torch.no_grad():
        adapted = PeftModel.from_pretrained(plain, bench.trial / "adapter")(input_ids=ids).logits
        merge_adapter(bench.trial / "adapter", tmp_path / "merged")
        merged = loader.from_pretrained(tmp_path / "merged")(input_ids=ids).logits
    torch.testing.assert_close(merged, adapted, rtol=1e-4, atol=1e-4)
    assert weight_names(tmp_path / "merged") == weight_names(folder)
    card = (bench.trial / "adapter" / "README.md").read_text()
    assert f"base = {loader.__name__}.from_pretrained(" in card
    (rows,) = (bench.home / "cache" / "data").glob("*/train.arrow")
    write_trl_script(bench.trial / "adapter", rows, tmp_path / "script")
    script = (tmp_path / "script" / "train.py").read_text()
    assert "base = AutoModelForImageTextToText.from_pretrained(" in script


def test_the_adapter_folder_holds_its_recipe_and_scores(done: tuple[Bench, Any]) -> None:
    bench, log = done
    folder = bench.trial / "adapter"
    assert load_recipe(folder / "recipe.yaml") == bench.recipe
    assert json.loads((folder / "scores.json").read_text())["values"] == log.scores
    config = json.loads((folder / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(shipped_file("workbench:demo/model"))


def test_no_path_of_this_machine_but_the_bases_leaves_with_the_adapter(
    done: tuple[Bench, Any],
) -> None:
    """PEFT finds a base that is no hub id by its folder alone."""
    bench, _ = done
    folder, base = bench.trial / "adapter", str(shipped_file("workbench:demo/model")).encode()
    for path in folder.iterdir():
        assert str(bench.home).encode() not in path.read_bytes(), path.name
        assert (base in path.read_bytes()) is (path.name == "adapter_config.json")


def test_an_adapter_of_the_demo_loads_with_peft_alone(done: tuple[Bench, Any]) -> None:
    bench, _ = done
    libraries.silence_loggers()
    loaded = AutoPeftModelForCausalLM.from_pretrained(bench.trial / "adapter")
    with torch.no_grad():
        assert torch.isfinite(loaded(torch.arange(3, 20)[None]).logits).all()


def test_a_finish_keeps_the_adapter_of_the_step_it_stopped_at(tmp_path: Path) -> None:
    log = Bench(tmp_path, recipe()).run(on=halt_at(2, Halt.FINISH))
    assert log.outcome is Outcome.STOPPED
    assert log.of("checkpoint")[-1]["step"] == log.end["step"] == 3
    assert log.scores["loss"] > 0
    assert (tmp_path / "trials/1/adapter/adapter_model.safetensors").is_file()


def test_a_yield_leaves_a_checkpoint_and_nothing_scored(tmp_path: Path) -> None:
    log = Bench(tmp_path, recipe()).run(on=halt_at(2, Halt.YIELD))
    assert log.outcome is Outcome.YIELDED
    assert log.of("checkpoint")[-1]["step"] == log.end["step"] == 3
    assert not log.of("score")
    assert not (tmp_path / "trials/1/adapter").exists()


def test_a_yield_ends_the_generation_of_answers(tmp_path: Path) -> None:
    def on(kind: str, data: dict[str, Any], control: Control) -> None:
        if kind == "phase" and data["detail"] == "answers":
            control.request_halt(Halt.YIELD)

    settings = recipe(train__max_steps=2, **SHORT_ANSWERS)
    bench = Bench(tmp_path, settings, plan=plan(recompute_layers=5))
    assert bench.run(on=on).outcome is Outcome.YIELDED
    again = bench.run()
    assert again.outcome is Outcome.DONE
    assert not again.losses


def test_finishing_scores_the_newest_checkpoint_without_training(tmp_path: Path) -> None:
    bench = Bench(tmp_path, recipe())
    bench.run(on=halt_at(4, Halt.YIELD))
    log = bench.run(finish=True)
    assert log.outcome is Outcome.STOPPED
    assert log.end["step"] == 5
    assert not log.losses
    assert log.of("adapter")


def test_finishing_without_a_checkpoint_ends_stopped_with_a_reason(tmp_path: Path) -> None:
    log = Bench(tmp_path, recipe()).run(finish=True)
    assert log.outcome is Outcome.STOPPED
    assert "no adapter" in log.end["reason"]
    assert not log.of("adapter")


def test_the_base_is_scored_untouched(tmp_path: Path) -> None:
    bench = Bench(tmp_path, recipe(**ANSWERS), kind="base")
    log = bench.run()
    assert log.outcome is Outcome.DONE
    assert log.of("score")[0]["subject"] == "base"
    assert log.scores["exact_match"] == 0
    assert not log.of("adapter")


def test_a_loss_that_is_not_finite_ends_the_trial(tmp_path: Path) -> None:
    log = Bench(tmp_path, recipe(train__learning_rate=1e30)).run()
    assert log.outcome is Outcome.DIVERGED
    assert not log.of("adapter")
    assert log.end["cause"] == "recipe"
    assert "learning_rate" in log.end["hint"]


def test_a_loss_ten_times_its_start_ends_the_trial_with_its_last_checkpoint(tmp_path: Path) -> None:
    """The first loss is in the checkpoint; the test makes it a tenth of what it was."""
    bench = Bench(tmp_path, recipe(train__save_every=1, train__log_every=1))
    first = bench.run(on=halt_at(2, Halt.YIELD)).losses[1][0]
    found = newest_verified(bench.checkpoints)
    assert found is not None
    assert found.window["start_loss"] == pytest.approx(first)
    sealed = json.loads((found.path / COMMIT).read_text())
    sealed["window"]["start_loss"] = first / 30
    body = {key: value for key, value in sealed.items() if key != "sha256"}
    (found.path / COMMIT).write_text(json.dumps({**body, "sha256": json_digest(body)}))
    log = bench.run()
    assert log.outcome is Outcome.DIVERGED, log.end
    assert "more than 10 times the" in log.end["reason"]
    assert log.end["hint"].startswith("lower train.learning_rate")
    assert log.end["step"] == log.of("score")[-1]["step"] == found.step
    assert len(log.of("adapter")) == 1


def test_skipped_steps_end_the_trial_with_its_last_checkpoint(tmp_path: Path) -> None:
    wild = recipe(
        train__save_every=2, train__log_every=1, train__max_steps=40, train__learning_rate=10.0
    )
    log = Bench(tmp_path, wild).run()
    assert log.outcome is Outcome.DIVERGED, log.end
    assert "NaN" in log.end["reason"]
    assert len(log.of("adapter")) == 1


def test_targets_the_model_does_not_have_are_refused_before_a_card_is_needed(
    tmp_path: Path,
) -> None:
    with pytest.raises(RecipeError, match="no qkv_proj") as refused:
        Bench(tmp_path, recipe(lora__targets=["qkv_proj"]))
    assert "q_proj" in refused.value.hint


def test_a_bug_leaves_its_traceback_in_a_file_only(tmp_path: Path) -> None:
    bench = Bench(tmp_path, recipe(), plan=plan(attention="no_such_kernel"))
    log = bench.run()
    assert log.outcome is Outcome.FAILED
    assert "Traceback" in (tmp_path / "attempts/1/traceback.txt").read_text()
    assert "Traceback" not in json.dumps(log.events)


def test_loss_and_gradients_do_not_depend_on_how_a_batch_is_cut(tmp_path: Path) -> None:
    settings = recipe(lora__dropout=0.0, train__log_every=1, train__max_steps=3)
    whole = Bench(tmp_path / "a", settings, plan=plan()).run()
    cut = Bench(tmp_path / "b", settings, plan=plan(tokens_per_micro=96)).run()
    for step, (loss, norm) in whole.losses.items():
        assert cut.losses[step] == pytest.approx((loss, norm), rel=2e-4)
