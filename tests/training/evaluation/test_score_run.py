"""Score trials in a worker: adapters of the home and of other tools, on one resident base."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.training.evaluation.plain_peft import save_plain
from tests.training.trials import CARD, DEMO_MODEL, Bench, Log, recipe, shallow_model
from workbench.adapters.subjects import Subjects, write_subjects
from workbench.attempts.events import Outcome
from workbench.fleet import Halt
from workbench.machine.staging import file_sha256
from workbench.training.attempt.setting import AttemptSetting
from workbench.training.control import Control
from workbench.training.evaluation.chat_run import prompt_ids
from workbench.training.memory.card_memory import Meter
from workbench.training.model.base import ResidentBase
from workbench.training.model.tokenizer import load_tokenizer
from workbench.training.prepare import prepare_experiment
from workbench.training.training_arguments import read_prepared

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*`is_gradient_checkpointing` is deprecated:FutureWarning"),
]
PATTERN: dict[str, Any] = {"evaluate__answer_pattern": r"^(-?\d+)", "evaluate__max_new_tokens": 4}
PATTERN |= {"model__name": DEMO_MODEL, "data__eval_rows": 4}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Log]:
    """Return a tuned trial's adapter, as an assignment's `score` names it, and its log."""
    bench = Bench(tmp_path_factory.mktemp("trained"), recipe(train__max_steps=3, **PATTERN))
    log = bench.run()
    assert log.outcome is Outcome.DONE, log.end
    folder = bench.trial / "adapter"
    sha256 = file_sha256(folder / "adapter_model.safetensors")
    source = {"trial": 5, "folder": str(folder), "sha256": sha256, "step": 3, "rows": "eval"}
    return source, log


def evaluation(home: Path, *folders: Path, **settings: Any) -> Bench:
    """Return a bench whose experiment only scores; its training file does not exist."""
    experiment = home / "experiments" / "1"
    experiment.mkdir(parents=True)
    subjects = Subjects(adapters=[str(folder) for folder in folders])
    write_subjects(experiment, subjects)
    gone = str(home / "gone.jsonl")
    return Bench(home, recipe(data__train=gone, **{**PATTERN, **settings}), kind="score")


def prepared_subject(bench: Bench, folder: Path) -> dict[str, Any]:
    prepared = read_prepared(bench.home / "experiments" / "1")
    return next(one for one in prepared["subjects"] if one.get("folder") == str(folder))


def test_a_trials_adapter_gets_the_same_digits_as_at_the_end_of_its_training(
    trained: tuple[dict[str, Any], Log], tmp_path: Path
) -> None:
    source, before = trained
    bench, resident = evaluation(tmp_path), ResidentBase()
    one = bench.run(resident, score=source)
    other = bench.run(resident, score=source)
    assert one.outcome is other.outcome is Outcome.DONE, one.end
    assert one.scores == other.scores == before.scores
    assert one.of("score")[0]["step"] == 3
    assert not one.of("adapter")
    assert not (bench.trial / "adapter").exists()


def test_adapters_of_other_tools_and_the_base_are_scored_on_one_resident_base(
    tmp_path: Path,
) -> None:
    plain, dora = save_plain(tmp_path / "a folder"), save_plain(tmp_path / "dora", use_dora=True)
    bench, resident = evaluation(tmp_path / "home", plain, dora), ResidentBase()
    base = bench.run(resident, score={"rows": "eval"})
    losses = [base.scores["loss"]]
    for folder in (plain, dora):
        log = bench.run(resident, score={**prepared_subject(bench, folder), "rows": "eval"})
        assert log.outcome is Outcome.DONE, log.end
        assert "resident" in [phase["detail"] for phase in log.of("phase")]
        losses.append(log.scores["loss"])
    assert len(set(losses)) == 3
    again = bench.run(resident, score={"rows": "eval"})
    assert again.scores == base.scores


def test_a_folder_that_changes_or_vanishes_while_queued_fails_clearly(tmp_path: Path) -> None:
    folder = save_plain(tmp_path / "plain")
    bench = evaluation(tmp_path / "home", folder)
    source = {**prepared_subject(bench, folder), "rows": "eval"}
    save_plain(folder, lora_alpha=9)
    changed = bench.run(score=source)
    assert changed.outcome is Outcome.FAILED
    assert "changed after the evaluation was submitted" in changed.end["reason"]
    assert "loading" not in [phase["name"] for phase in changed.of("phase")]
    shutil.rmtree(folder)
    gone = bench.run(score=source)
    assert gone.outcome is Outcome.FAILED
    assert "is gone" in gone.end["reason"]
    assert "put the folder back" in gone.end["hint"]


def test_a_folder_that_was_refused_fails_with_the_preparations_words(tmp_path: Path) -> None:
    folder = save_plain(tmp_path / "plain")
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    bench = evaluation(tmp_path / "home", folder)
    log = bench.run(score={**prepared_subject(bench, folder), "rows": "eval"})
    assert log.outcome is Outcome.FAILED
    assert "pickled weights" in log.end["reason"]
    assert "safe_serialization" in log.end["hint"]


def test_a_folder_that_vanished_before_the_preparation_fails_with_the_same_hint(
    tmp_path: Path,
) -> None:
    bench = evaluation(tmp_path / "home", tmp_path / "gone")
    log = bench.run(score={**prepared_subject(bench, tmp_path / "gone"), "rows": "eval"})
    assert log.outcome is Outcome.FAILED
    assert "the adapter is gone: there is no folder" in log.end["reason"]
    assert "put the folder back" in log.end["hint"]


def test_another_base_is_refused_unless_the_person_vouches_for_it(tmp_path: Path) -> None:
    folder = save_plain(tmp_path / "plain")
    config = folder / "adapter_config.json"
    config.write_text(config.read_text().replace("demo/model", "other/model"))
    bench = evaluation(tmp_path / "home", folder)
    assert "and is to be scored on workbench:demo/model" in prepared_subject(bench, folder)["error"]
    experiment = bench.home / "experiments" / "1"
    write_subjects(experiment, Subjects(adapters=[str(folder)], same_base=True))
    prepare_experiment(experiment, bench.home / "cache" / "data", lambda *_: None)
    assert prepared_subject(bench, folder)["digest"]


def test_a_folders_own_chat_template_is_warned_about(tmp_path: Path) -> None:
    folder = save_plain(tmp_path / "plain")
    (folder / "chat_template.jinja").write_text("{{ messages[0].content }}")
    bench = evaluation(tmp_path / "home", folder)
    log = bench.run(score={**prepared_subject(bench, folder), "rows": "eval"})
    assert any("another chat template" in line["text"] for line in log.of("log"))


def test_what_drops_reasoning_is_saved_and_asked_without_it(tmp_path: Path) -> None:
    model = shallow_model()
    template = Path(model) / "chat_template.jinja"
    template.write_text(
        template.read_text()
        + "{% if add_generation_prompt and enable_thinking is not false %}<think>{% endif %}"
    )
    settings: dict[str, Any] = {**PATTERN, "model__name": model, "train__max_steps": 1}
    settings |= {"data__chat_template": "auto", "data__reasoning": "drop"}
    bench = Bench(tmp_path / "home", recipe(**settings))
    log = bench.run()
    assert log.outcome is Outcome.DONE, log.end
    folder = bench.trial / "adapter"
    question = [{"role": "user", "content": "?"}]
    saved = load_tokenizer(str(folder), None)
    assert "<think>" not in decoded(saved, question)
    assert "<think>" in decoded(load_tokenizer(model, None), question)
    for reasoning, told in (("drop", False), ("keep", True)):
        asked = {**settings, "data__reasoning": reasoning}
        scored = evaluation(tmp_path / reasoning, folder, **asked)
        notes = prepared_subject(scored, folder)["notes"]
        assert any("another chat template" in note for note in notes) == told
        setting = AttemptSetting(
            scored.assignment(), ResidentBase(), Meter(CARD), lambda *_, **__: None, Control()
        )
        setting.load_rows()
        assert ("<think>" in decoded(setting.tokenizer, question)) == told


def decoded(tokenizer: Any, question: list[dict[str, str]]) -> str:
    """Return the prompt with which a chat asks."""
    return str(tokenizer.decode(prompt_ids(tokenizer, question, template=True)))


@pytest.mark.parametrize(("how", "outcome"), [(Halt.YIELD, "yielded"), (Halt.FINISH, "stopped")])
def test_a_halt_ends_it_without_a_score(
    trained: tuple[dict[str, Any], Log], tmp_path: Path, how: Halt, outcome: str
) -> None:
    def on(kind: str, data: dict[str, Any], control: Control) -> None:
        if kind == "phase" and data["name"] == "loading":
            control.request_halt(how)

    log = evaluation(tmp_path).run(on=on, score=trained[0])
    assert log.outcome == outcome
    assert not log.of("score")


def test_a_saved_weight_that_changed_is_not_scored(
    trained: tuple[dict[str, Any], Log], tmp_path: Path
) -> None:
    log = evaluation(tmp_path).run(score={**trained[0], "sha256": "0" * 64})
    assert log.outcome is Outcome.FAILED
    assert "changed since it was saved" in log.end["reason"]
