"""A user's own scorer in its process: what it may do, and what its mistakes cost."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from workbench.machine.processes import identify_process
from workbench.training.scoring.scorers.own_scorers import OwnScorer
from workbench.training.scoring.scorers.sandbox import NoScore, ScorerLimits, run_scorer

ROWS = [("2+2?", "4", "4"), ("3+3?", "6", "7")]
SMALL = ScorerLimits(memory_bytes=1 << 30, output_bytes=100_000)
Written = Callable[..., OwnScorer]


@pytest.fixture
def written(tmp_path: Path) -> Written:
    """Return a function that writes a scorer's file from the body of its function."""

    def write(body: str, *, head: str = "HIGHER_IS_BETTER = True", name: str = "mine") -> OwnScorer:
        path = tmp_path / f"{name.removesuffix(':min')}.py"
        lines = "\n".join(f"    {line}" for line in body.splitlines())
        path.write_text(f"{head}\n\n\ndef score(question, expected, answer):\n{lines}\n")
        return OwnScorer(name=name, path=path)

    return write


def test_each_row_gets_the_number_that_the_function_returns(written: Written) -> None:
    assert run_scorer(written("return expected == answer"), ROWS) == [1.0, 0.0]


def test_none_says_that_a_row_cannot_be_scored(written: Written) -> None:
    assert run_scorer(written("return None if answer == '7' else 0.25"), ROWS) == [0.25, None]


def test_texts_arrive_as_they_are(written: Written) -> None:
    odd = "\ud800 \x00 \u2028 \n é"
    assert run_scorer(written(f"return answer == {odd!r}"), [("", "", odd)]) == [1.0]


def test_a_print_does_not_stand_among_the_scores(written: Written) -> None:
    assert run_scorer(written("print('{\"score\": 9}')\nreturn 0.5"), ROWS) == [0.5, 0.5]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("return 1 / 0", "row 1: ZeroDivisionError at line 5: division by zero"),
        ("return float('nan')", "row 1: score returned nan, which is no finite number"),
        ("return 'good'", "row 1: ValueError"),
        ("raise SystemExit(3)", "row 1: SystemExit"),
        ("import os\nos._exit(3)", "row 1: it ended with exit code 3"),
        ("import os\nos.kill(os.getpid(), 11)", "row 1: it was ended by signal 11"),
        ("return len(bytearray(2 << 30))", "row 1: it needed more memory than it may have"),
        ("while True: print('x' * 1000)", "it printed more than 100,000 bytes"),
        ("import os\nwhile True: os.write(2, b'x' * 1000)", "it printed more than 100,000 bytes"),
        ("return 1.0 if answer == '4' else None + 1", "row 2: TypeError at line 5"),
        ("import mine_too\nreturn 1", "row 1: ModuleNotFoundError"),
    ],
)
def test_a_mistake_costs_the_score_and_says_which(written: Written, body: str, words: str) -> None:
    scorer = written(body)
    (scorer.path.parent / "mine_too.py").write_text("")
    with pytest.raises(NoScore) as refused:
        run_scorer(scorer, ROWS, limits=SMALL)
    assert words in str(refused.value)


@pytest.mark.parametrize("body", ["while True: pass", "import signal\nsignal.pause()"])
def test_a_scorer_that_hangs_is_ended(written: Written, body: str) -> None:
    with pytest.raises(NoScore, match=r"row 1: it gave no score within 0\.3 s"):
        run_scorer(written(body), ROWS, limits=ScorerLimits(row_s=0.3))


def test_a_scorer_that_is_slow_on_every_row_is_ended(written: Written) -> None:
    with pytest.raises(NoScore, match=r"it took more than 0\.5 s"):
        run_scorer(written("return 1"), ROWS * 100_000, limits=ScorerLimits(total_s=0.5))


def test_processor_time_is_limited(written: Written) -> None:
    with pytest.raises(NoScore, match="row 1: it took more than 1 s of processor time"):
        run_scorer(written("while True: pass"), ROWS, limits=ScorerLimits(cpu_s=1))


@pytest.mark.parametrize(
    ("head", "words"),
    [
        ("", "it must set HIGHER_IS_BETTER to True or False"),
        ("HIGHER_IS_BETTER = False", "evaluate.scorer must name it mine:min"),
        ("HIGHER_IS_BETTER = True; import nowhere", "ModuleNotFoundError at line 1"),
        ("HIGHER_IS_BETTER = ", "SyntaxError"),
    ],
)
def test_a_file_that_cannot_be_used_says_why(written: Written, head: str, words: str) -> None:
    with pytest.raises(NoScore) as refused:
        run_scorer(written("return 1", head=head), ROWS)
    assert words in str(refused.value)


def test_a_name_with_min_takes_a_file_of_which_lower_is_better(written: Written) -> None:
    scorer = written("return 2.5", head="HIGHER_IS_BETTER = False", name="errors:min")
    assert run_scorer(scorer, ROWS) == [2.5, 2.5]


def test_it_sees_no_gpu_and_no_secrets(written: Written, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_" + "x" * 34)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    body = (
        "from os import environ\n"
        "return environ.get('CUDA_VISIBLE_DEVICES') == '' and 'HF_TOKEN' not in environ"
    )
    assert run_scorer(written(body), ROWS[:1]) == [1.0]


def test_its_children_end_with_it(written: Written, tmp_path: Path) -> None:
    body = (
        "import pathlib, subprocess\n"
        "child = subprocess.Popen(['sleep', '600'])\n"
        f"pathlib.Path({str(tmp_path)!r}, 'pid').write_text(str(child.pid))\n"
        "return 1"
    )
    assert run_scorer(written(body), ROWS[:1]) == [1.0]
    pid = int((tmp_path / "pid").read_text())
    assert identify_process(pid) is None


def test_progress_may_end_it(written: Written, tmp_path: Path) -> None:
    pid = tmp_path / "pid"

    class GiveBack(Exception):
        pass

    def give_back() -> None:
        if pid.exists() and pid.read_text():
            raise GiveBack

    body = f"import os\nopen({str(pid)!r}, 'w').write(str(os.getpid()))\nwhile True: pass"
    with pytest.raises(GiveBack):
        run_scorer(written(body), ROWS, progress=give_back)
    assert identify_process(int(pid.read_text())) is None
