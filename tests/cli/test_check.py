"""`workbench check`: the data as training would see it, shown before anything is queued."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Said, Workbench
from tests.support.forked import run_forked
from tests.support.tick_contexts import TINY, Bench
from workbench.cli import main
from workbench.cli.recipes.check import (
    _fit,
    fit_lines,
    learned_brackets,
    length_line,
    print_example,
    show_check,
)
from workbench.cli.recipes.plan import cards_here
from workbench.cli.recipes.prepare import Progress, progress_bar
from workbench.errors import WorkbenchError
from workbench.footprint import named_config
from workbench.footprint.outlook import outlook_on
from workbench.footprint.usual_cards import card_of_size, usual_card
from workbench.home import Home
from workbench.recipe import Recipe, load_recipe
from workbench.service import Service
from workbench.training import prepare

PAIRS = [{"prompt": f"What is {n} + 1?", "completion": f"#### {n + 1}"} for n in range(10)]
COMMAND = [sys.executable, "-m", "workbench", "check"]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home whose cache the tests share: a child costs seconds."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture
def home(shared: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.setenv("WORKBENCH_HOME", str(shared))
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("NO_COLOR", "1")
    return Home(shared)


def recipe_with(folder: Path, rows: list[Any]) -> Path:
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    path = folder / "mine.yaml"
    path.write_text(
        "name: mine\nmodel: {name: workbench:demo/model}\n"
        "data: {train: ./train.jsonl, eval_rows: 2, max_tokens: 128}\n"
    )
    return path


def prepared(recipe: Recipe, folder: Path) -> dict[str, Any]:
    """Prepare the recipe as the command's child does, in a child that has the libraries."""
    from workbench.training.model import preflight, tokenizer  # noqa: F401  # they import them

    (folder / "recipe.json").write_text(recipe.model_dump_json())
    words = [str(folder), str(Home(folder / "home").cache), "--rows-only"]
    ended = run_forked(lambda: prepare.main(words))
    assert ended.code == 0, ended.out
    return dict(json.loads((folder / "prepared.json").read_bytes()))


class Piped(io.StringIO):
    encoding = "utf-8"


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Said]:
    """The folder and the outcome of one check of a mixture in bins; a child costs seconds."""
    folder = tmp_path_factory.mktemp("mixture")
    recipe = recipe_with(folder, [*PAIRS, PAIRS[0], PAIRS[0]])
    (folder / "more.jsonl").write_text('{"text": "Tom has 3 apples."}\n{"text": "No."}\n')
    sources = "data.train=[{path: train.jsonl, weight: 2}, {path: more.jsonl, rows: 5}]"
    settings = ("data.test_rows=3", "data.packing=true", "train.warmup=0", sources)
    out, err = Piped(), Piped()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setenv("WORKBENCH_HOME", str(folder / "home"))
        patch.setenv("NO_COLOR", "1")
        patch.chdir(folder)
        code = main(["check", str(recipe), *(word for one in settings for word in ("-s", one))])
    assert code == 0, err.getvalue()
    return folder, Said(code, out.getvalue(), err.getvalue())


def test_what_was_read_is_told_with_three_examples_and_a_line_on_the_card(
    told: tuple[Path, Said],
) -> None:
    folder, said = told
    assert "tested on     3 rows of the same data (data.test_rows), not trained on" in said.out
    assert "read          14 rows, shape prompt-completion and text" in said.out
    assert "tokens a bin  min " in said.out
    assert said.out.count("⟦#### ") == 3
    assert said.out.count("<|eot_id|>⟧") == 3
    assert "\x1b" not in said.out
    assert "held out      2 rows of the same data (data.eval_rows), not trained on" in said.out
    assert said.out.splitlines()[-1].startswith("fits a card of 24.0 GiB (no card is known")
    assert "loading the tokenizer" in said.err
    left = sorted(path.name for path in (folder / "home").iterdir())
    assert left == ["cache", "logs", "requests"]


def test_each_source_of_a_mixture_has_a_line_with_its_rows_tokens_and_share(
    told: tuple[Path, Said],
) -> None:
    folder, said = told
    assert f"mine: {folder}/train.jsonl, {folder}/more.jsonl" in said.out
    [first, second] = [line for line in said.out.splitlines() if "rows read" in line]
    trained = re.search(r"train.jsonl, shape prompt-completion: 12 rows read, (\d+) of", first)
    assert trained is not None
    assert f"of them trained on as {2 * int(trained[1])}; " in first
    assert "more.jsonl, shape text: 2 rows read, " in second
    assert " of them trained on as 5; " in second
    shares = [float(line.split("%")[0]) for line in (first, second)]
    assert sum(shares) == pytest.approx(100, abs=0.2)


def test_the_batch_of_packed_rows_is_told_in_rows_and_tokens(told: tuple[Path, Said]) -> None:
    _, said = told
    assert "trained on    19 rows in 3 bins; " in said.out
    assert "batch         3 bins a step (train.batch_size × accumulation): about 19.0" in said.out


@pytest.mark.slow  # the next test has the way of a refusal, tests/training its words
def test_a_refusal_is_exit_code_one_with_file_line_and_hint(
    workbench: Workbench, tmp_path: Path
) -> None:
    said = workbench("check", recipe_with(tmp_path, [*PAIRS, {"prompt": "q", "completion": 4}]))
    assert (said.code, said.out) == (1, "")
    assert "error: train.jsonl:11: completion holds a number, not text" in said.err
    assert '  → write it as text: "4" for 4' in said.err


@pytest.mark.slow  # tests/training/test_recipe_checks.py has its words and the exit code
def test_a_pattern_that_can_score_nothing_is_a_mistake_in_the_recipe(
    workbench: Workbench, tmp_path: Path
) -> None:
    recipe = recipe_with(tmp_path, PAIRS)
    said = workbench("check", recipe, "-s", "evaluate.answer_pattern=no such text")
    assert (said.code, said.out) == (2, "")
    assert "evaluate.answer_pattern matches none of" in said.err


def test_a_refusal_is_json_too(workbench: Workbench, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()  # refused before anything slow is imported
    model = f"model.name={tmp_path / 'model'}"
    said = workbench("check", recipe_with(tmp_path, PAIRS), "-s", model, "--json")
    assert said.code == 1
    assert set(said.data) == {"ok", "error", "hint", "mend"}
    assert said.data["ok"] is False
    assert said.data["error"].endswith("has no config.json")


class Terminal(io.StringIO):
    encoding = "ascii"

    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_colour_and_brackets_that_it_can_show(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    parts = [
        {"text": "2 + 2 =", "tokens": 4, "loss": False},
        {"text": " 4\n", "tokens": 2, "loss": True},
    ]
    print_example({"place": "t.jsonl:1", "tokens": 6, "parts": parts}, *learned_brackets())
    said = terminal.getvalue()
    assert "t.jsonl:1: 6 tokens, 2 with loss" in said
    assert "\x1b[2m2 + 2 =\x1b[0m\x1b[32m[[ 4\x1b[0m\n  \x1b[32m]]\x1b[0m\n" in said


def test_progress_is_painted_over_on_a_terminal_and_told_by_stage_elsewhere(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "progress.json"
    file.write_text('{"stage": "tokenising", "done": 1, "total": 4}')
    monkeypatch.setenv("TERM", "xterm")
    painted = {Terminal(): "\r\x1b[Ktokenising [#####...............] 1 of 4", io.StringIO(): ""}
    for stream, bar_there in painted.items():
        monkeypatch.setattr(sys, "stderr", stream)
        progress = Progress(file)
        progress.update()
        progress.update()
        progress.end()
        assert stream.getvalue() == (bar_there * 2 + "\r\x1b[K" if bar_there else "tokenising\n")


def test_ctrl_c_ends_the_child_and_leaves_nothing(tmp_path: Path) -> None:
    rows = [{"text": f"{n} apples and books " * 50} for n in range(20_000)]
    env = {**os.environ, "WORKBENCH_HOME": str(tmp_path / "home")}
    path = str(recipe_with(tmp_path, rows))
    with subprocess.Popen(
        [*COMMAND, path], stdout=-3, stderr=subprocess.PIPE, text=True, env=env
    ) as child:
        assert child.stderr is not None
        first = child.stderr.readline()
        child.send_signal(signal.SIGINT)
        rest = child.stderr.read()
    assert child.returncode == 130
    assert first
    assert rest.endswith("interrupted\n")
    assert "Traceback" not in rest
    left = sorted(path.name for path in (tmp_path / "home").iterdir())
    assert left == ["cache", "logs", "requests"]


def test_a_bar_tells_how_far_it_is() -> None:
    assert progress_bar("reading", 0, 0) == "reading"
    assert progress_bar("reading", 1_500, 0) == "reading 1,500"
    assert progress_bar("tokenising", 1, 4) == "tokenising [#####...............] 1 of 4"


class TestCards:
    """With a store that knows cards, in a home of its own."""

    @pytest.fixture
    def home(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
        monkeypatch.setenv("WORKBENCH_HOME", str(tmp_path / "home"))
        return Home(tmp_path / "home")

    def test_json_holds_numbers_warnings_examples_and_that_no_card_here_takes_it(
        self, bench: Bench, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        bench.store.db.execute("update cards set total_bytes = 1 << 29")
        recipe = load_recipe(recipe_with(tmp_path, [*PAIRS, PAIRS[0]]))
        result, service = prepared(recipe, tmp_path), Service()
        assert show_check(recipe, result, service, cards_here(service), as_data=True) == 1
        said = Said(1, *capsys.readouterr())
        assert said.data["ok"] is True
        assert said.data["data"]["read_rows"] == 11
        assert any("repeat" in note for note in said.data["warnings"])
        assert len(said.data["examples"]) == 3
        head, lengths = length_line(said.data["data"])
        assert (head, lengths[:4]) == ("tokens a row", "min ")
        assert said.data["fit"]["fits"] is False
        assert said.data["fit"]["suggestions"]

    def test_it_is_the_rows_there_are_that_must_fit(self, bench: Bench) -> None:
        bench.store.db.execute("update cards set total_bytes = 3400 << 20")
        data = {"train": "/d.jsonl", "max_tokens": 1 << 18}
        recipe = Recipe.model_validate({"name": "x", "model": {"name": "a/b"}, "data": data})
        read = {"max_length": 40, "length_sample": [20], "eval_max_length": 40}
        result = {"model": {"config": TINY}, "data": read}
        cards = cards_here(service := Service())
        assert _fit(recipe, result, service, cards)[0][0].fits
        assert not _fit(recipe, {**result, "data": {}}, service, cards)[0][0].fits
        sweep = {"parameters": {"data.max_tokens": [64, 1 << 19]}}
        swept = recipe.model_validate({**recipe.model_dump(), "sweep": sweep})
        assert not _fit(swept, result, service, cards)[0][0].fits, "its longest trial reads others"


def test_what_does_not_fit_is_shown_with_suggestions() -> None:
    recipe = Recipe.model_validate(
        {"name": "x", "model": {"name": "a/b"}, "data": {"train": "/d.jsonl"}}
    )
    shape = named_config("meta-llama/Meta-Llama-3-8B")
    assert shape is not None
    looked = [outlook_on(recipe, shape, usual_card("3070"))]
    (line, colour), *_ = fit_lines(looked, None, known=True)
    assert (line.split(":")[0], colour) == ("fits RTX 3070", "green")
    tiny = [outlook_on(recipe, shape, card_of_size(4 << 30, "a card of 4 GiB"))]
    (line, colour), (hint, _) = fit_lines(tiny, None, known=False)
    assert line.startswith("does not fit a card of 4 GiB (no card is known here): it needs 6")
    assert (colour, hint.startswith("  → use a card of 8 GB")) == ("red", True)
    lacking = WorkbenchError("bf16 needs more", hint="set model.precision: auto")
    assert fit_lines([], lacking, known=True)[1][0] == "  → set model.precision: auto"
