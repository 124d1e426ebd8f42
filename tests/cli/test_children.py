"""Commands that run in a child: train and merge, up to where the child begins."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import Workbench
from tests.cli.engines import recipe_file
from tests.support.tick_contexts import Bench, recipe
from tests.support.waiting import wait_for
from workbench.cli import main
from workbench.cli.child import _leave, ask_child, run_child
from workbench.cli.export.merge import adapter_of, chosen_adapter, describe_difference
from workbench.cli.recipes.train import default_folder, find_warm_source, prepare_folder
from workbench.errors import CheckpointError, NotThere, UsageError, WorkbenchError
from workbench.home import Home
from workbench.recipe import Recipe, load_recipe
from workbench.trial import State


def test_a_childs_exit_code_is_ours() -> None:
    assert run_child([sys.executable, "-c", "raise SystemExit(3)"]) == 3


def test_a_child_that_a_signal_ended_is_a_failure() -> None:
    assert run_child([sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"]) == 1


CHECKPOINTS = """
import signal, sys, time
ended = []
signal.signal(signal.SIGINT, lambda *_: ended.append("asked"))
signal.signal(signal.SIGTERM, lambda *_: ended.append("again"))
print("ready", flush=True)
while len(ended) < 2: time.sleep(0.01)
print(*ended)
"""


def test_a_child_that_checkpoints_for_long_is_waited_for() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", CHECKPOINTS], stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        child.send_signal(signal.SIGINT)
        _leave(child, patience_s=0.5)  # shorter than its checkpoint takes
        assert (child.returncode, child.stdout.read()) == (0, "asked again\n")


@pytest.mark.slow  # two signals that come as one wait for the limit of 30 s
def test_a_second_ctrl_c_ends_a_child_that_hangs() -> None:
    child = "import signal,time; signal.signal(2,signal.SIG_IGN); print(flush=True); time.sleep(99)"
    code = (
        "from workbench.cli.child import run_child; "
        f"run_child([{sys.executable!r}, '-c', {child!r}])"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as command:
        assert command.stdout is not None
        command.stdout.readline()
        for _ in range(2):
            os.killpg(command.pid, signal.SIGINT)
            wait_for(lambda: not _pending_interrupt(command.pid), "it has seen the signal")
        assert command.wait(timeout=60) != 0
        assert command.stdout.read() == b""  # the child has closed it: nothing lives on


def _pending_interrupt(pid: int) -> bool:
    """Return whether a SIGINT waits to be delivered to the process, by proc(5)."""
    status = Path(f"/proc/{pid}/status").read_text()
    pending = next(line for line in status.splitlines() if line.startswith("ShdPnd"))
    return bool(int(pending.split()[1], 16) & 1 << (signal.SIGINT - 1))


def test_a_childs_answer_is_its_stdout() -> None:
    ended = ask_child([sys.executable, "-c", "print('{}')"])
    assert (ended.code, ended.stdout) == (0, "{}\n")


def test_training_here_starts_from_a_folder_with_the_recipe(tmp_path: Path) -> None:
    wanted = load_recipe(recipe_file(tmp_path))
    folder = prepare_folder(tmp_path / "run", wanted)
    assert Recipe.model_validate_json((folder / "recipe.json").read_text()) == wanted
    assert prepare_folder(tmp_path / "run", wanted) == folder


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    wanted = load_recipe(recipe_file(tmp_path))
    with pytest.raises(UsageError, match="is not empty"):
        prepare_folder(tmp_path, wanted)
    prepare_folder(tmp_path / "run", wanted)
    with pytest.raises(UsageError, match="another recipe"):
        prepare_folder(tmp_path / "run", wanted.model_copy(update={"name": "other"}))
    with pytest.raises(WorkbenchError, match="cannot be written"):
        prepare_folder(Path("/dev/null/x"), wanted)


def test_a_warm_start_here_is_kept_and_no_other_one_is_taken(tmp_path: Path) -> None:
    wanted = load_recipe(recipe_file(tmp_path))
    warm = {"trial": None, "folder": "/adapters/a", "sha256": "0" * 64}
    folder = prepare_folder(tmp_path / "run", wanted, warm)
    assert json.loads((folder / "warm.json").read_text()) == warm
    assert prepare_folder(tmp_path / "run", wanted, warm) == folder
    assert prepare_folder(tmp_path / "run", wanted) == folder
    with pytest.raises(UsageError, match="starts from another adapter"):
        prepare_folder(tmp_path / "run", wanted, {**warm, "folder": "/adapters/b"})
    prepare_folder(tmp_path / "cold", wanted)
    with pytest.raises(UsageError, match="starts from a new LoRA"):
        prepare_folder(tmp_path / "cold", wanted, warm)


def test_a_warm_start_here_takes_a_trial_with_the_digest_that_it_left(bench: Bench) -> None:
    bench.submit(recipe())
    bench.until(State.DONE, 2)
    folder = str(bench.context.home.trial(2) / "adapter")
    assert find_warm_source("2") == {"trial": 2, "folder": folder, "sha256": "0" * 64}


def test_a_warm_start_here_needs_weights_in_safetensors(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps({}))
    (tmp_path / "adapter_model.bin").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"no readable adapter_model.safetensors"):
        find_warm_source(str(tmp_path))
    with pytest.raises(NotThere, match="neither"):
        find_warm_source("nothing")


def test_a_recipes_name_never_leaves_the_home(home: Home) -> None:
    folder = default_folder("../../etc/\x00passwd")
    assert folder.parent == home.root / "foreground"
    assert folder.name.startswith("etc-passwd-")


def test_merge_finds_the_adapter_of_a_trial(bench: Bench) -> None:
    bench.submit(recipe())
    bench.until(State.DONE, 2)
    assert adapter_of("2") == Path(bench.context.home.trial(2) / "adapter")


def test_the_folder_of_a_trials_adapter_stands_for_the_trial(bench: Bench, tmp_path: Path) -> None:
    bench.submit(recipe())
    bench.until(State.DONE, 2)
    folder = bench.context.home.trial(2) / "adapter"
    (folder / "adapter_config.json").write_text("{}")
    for word in (folder, folder.parent):
        trial = chosen_adapter(str(word)).trial
        assert trial is not None
        assert trial.id == 2
    copy = shutil.copytree(folder, tmp_path / "2" / "adapter")
    assert chosen_adapter(str(copy)).trial is None
    unknown = shutil.copytree(folder, bench.context.home.trial(99) / "adapter")
    assert chosen_adapter(str(unknown)).trial is None


def test_merge_takes_an_adapters_folder_too(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps({}))
    assert adapter_of(str(tmp_path)) == tmp_path


def test_merge_takes_the_folder_of_a_foreground_trial_too(tmp_path: Path) -> None:
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps({}))
    assert adapter_of(str(tmp_path)) == tmp_path / "adapter"


def test_merge_offers_three_dtypes(workbench: Workbench, tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps({}))
    said = workbench("merge", str(tmp_path), "-o", "/nowhere", "--dtype", "int8")
    assert said.code == 2
    assert all(dtype in said.err for dtype in ("bfloat16", "float16", "float32"))


@pytest.mark.parametrize(
    ("difference", "dtype", "words"),
    [
        (0.2, "bfloat16", "what rounding to bfloat16 does"),
        (1.5, "bfloat16", "what rounding to bfloat16 does; --dtype float32 keeps more digits"),
        (1e-5, "float32", "what rounding to float32 does"),
    ],
)
def test_merge_says_what_its_rounding_costs(difference: float, dtype: str, words: str) -> None:
    assert describe_difference(difference, 20.0, dtype).endswith(words)


def test_merge_of_a_trial_without_adapter_is_told(bench: Bench, workbench: Workbench) -> None:
    bench.submit(recipe())
    said = workbench("merge", "2", "-o", "/nowhere")
    assert said.code == 3
    assert "trial 2 is queued and has no adapter" in said.err
    with pytest.raises(NotThere, match="neither"):
        adapter_of("nothing")


def test_a_child_of_an_export_sees_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a context on a card the engine would take it for a program of somebody else."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    command = [sys.executable, "-c", "import os; print(repr(os.environ['CUDA_VISIBLE_DEVICES']))"]
    assert ask_child(command).stdout == "''\n"


def test_a_run_that_is_refused_before_it_begins_leaves_no_folder(
    home: Home, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "demo", "--card", "nope"]) != 0
    assert "training in" not in capfd.readouterr().err
    assert list((home.root / "foreground").iterdir()) == []
