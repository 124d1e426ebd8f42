"""A recipe alone runs no code; the user's configuration can allow one model at one revision."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import dynamic_module_utils

from tests.support.forked import run_forked
from tests.training import trials
from workbench.errors import ModelError, RecipeError
from workbench.export.merge import merge_adapter
from workbench.fleet import Halt
from workbench.recipe import load_recipe
from workbench.recipe.schema import Model
from workbench.recipe.shipped import PACKAGE
from workbench.training.checkpoints import checkpoint
from workbench.training.model.base import load_base
from workbench.training.model.source import resolve_model
from workbench.training.model.tokenizer import load_tokenizer
from workbench.user_config import may_run_its_code, read_user_config

COMMIT = "0123456789abcdef0123456789abcdef01234567"
PLAIN = "name: x\nmodel: {name: org/model}\ndata: {train: org/rows}\n"

STRANGE = """
from pathlib import Path
Path({marker!r}).touch()
from transformers import LlamaConfig, LlamaForCausalLM
class StrangeConfig(LlamaConfig):
    model_type = "strange"
class Strange(LlamaForCausalLM):
    config_class = StrangeConfig
"""


def load_as_trusted(folder: Path, marker: Path, config: Path) -> None:
    """Print what loads, and if its code has run, as nobody, another and this model is trusted."""
    way = trials.spec(path=str(folder), double_quantization=False, attention="eager")
    found = []
    for trusted in ("", "/another", str(folder)):
        text = f'[models]\ntrust_remote_code = [{{name = "{trusted}"}}]\n' if trusted else ""
        (config / "workbench" / "config.toml").write_text(text)
        try:
            load_tokenizer(str(folder), None)
            loaded = type(load_base(way)).__name__
        except ModelError:
            loaded = ""
        found.append([loaded, marker.exists()])
    print(json.dumps(found))


@pytest.mark.parametrize(
    "line",
    [
        "model: {name: org/model, trust_remote_code: true}",
        "model: {name: org/model, code: os.system}",
        "trust_remote_code: true",
        "notify: {command: [touch, /tmp/x]}",
        "hooks: {before: touch /tmp/x}",
        "model: !!python/object/apply:os.system ['touch /tmp/x']",
        "model: !!python/name:os.system",
        "model: &a {name: *a}",
        "model: {name: 'org/model; touch x'}",
        "model: {name: $(touch x)}",
    ],
)
def test_no_recipe_can_name_code_or_a_command(tmp_path: Path, line: str) -> None:
    lines = [part for part in PLAIN.splitlines() if part.split(":")[0] != line.split(":")[0]]
    path = tmp_path / "r.yaml"
    path.write_text("\n".join([*lines, line]) + "\n")
    with pytest.raises(RecipeError) as refused:
        load_recipe(path, [])
    assert refused.value.hint


@pytest.mark.parametrize(
    "begin",
    ["from workbench.training import libraries; libraries._set_environment()",
     "from workbench.export.child import print_report; print_report(dict)"],
)  # fmt: skip
@pytest.mark.parametrize("trusts", [False, True])
def test_compiled_code_comes_from_a_hub_only_where_the_user_trusts_a_model(
    begin: str, trusts: bool, tmp_path: Path
) -> None:
    (tmp_path / "kernels.py").write_text("print('could fetch')\n")
    (tmp_path / "workbench").mkdir()
    if trusts:
        text = f"[models]\ntrust_remote_code = [{{name = '{tmp_path}'}}]\n"
        (tmp_path / "workbench" / "config.toml").write_text(text)
    code = f"{begin}\ntry:\n    import kernels\nexcept ImportError:\n    print('cannot')"
    env = {**os.environ, "PYTHONPATH": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path)}
    command = [sys.executable, "-c", code]
    said = subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout
    assert said.splitlines()[-1] == ("could fetch" if trusts else "cannot")


def test_a_models_own_code_runs_only_where_the_user_said_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, marker, config = tmp_path / "model", tmp_path / "ran", tmp_path / "config"
    shutil.copytree(PACKAGE / "demo" / "model", folder)
    about = json.loads((folder / "config.json").read_text())
    names = {"AutoConfig": "strange.StrangeConfig", "AutoModelForCausalLM": "strange.Strange"}
    about |= {"model_type": "strange", "auto_map": names, "architectures": ["Strange"]}
    (folder / "config.json").write_text(json.dumps(about))
    (folder / "strange.py").write_text(STRANGE.format(marker=str(marker)))
    (config / "workbench").mkdir(parents=True)
    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "hf"))
    ended = run_forked(
        lambda: load_as_trusted(folder, marker, config),
        {"XDG_CONFIG_HOME": str(config), "HF_HUB_OFFLINE": "1"},
    )
    assert ended.code == 0, ended.out
    assert json.loads(ended.out.splitlines()[-1]) == [["", False], ["", False], ["Strange", True]]


def test_trust_is_for_one_revision_of_one_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    (tmp_path / "workbench").mkdir()
    file = tmp_path / "workbench" / "config.toml"
    assert not may_run_its_code("org/model", COMMIT)
    file.write_text(f'[models]\ntrust_remote_code = [{{name="org/model", revision="{COMMIT}"}}]\n')
    assert may_run_its_code("org/model", COMMIT)
    assert not may_run_its_code("org/model", COMMIT[::-1])
    assert not may_run_its_code("org/model", None)
    assert not may_run_its_code("org/other", COMMIT)
    file.write_text("[models\n")
    assert not may_run_its_code("org/model", COMMIT)


@pytest.mark.parametrize("entry", ['{name="org/model"}', '{name="org/model", revision="main"}'])
def test_trust_without_a_full_commit_is_refused(tmp_path: Path, entry: str) -> None:
    file = tmp_path / "config.toml"
    file.write_text(f"[models]\ntrust_remote_code = [{entry}]\n")
    with pytest.raises(Exception, match="full commit"):
        read_user_config(file)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.pth", "last.ckpt"])
def test_pickled_weights_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    (tmp_path / name).write_bytes(b"cos\nsystem\n(S'touch x'\ntR.")
    wanted = load_recipe_with(str(tmp_path))
    with pytest.raises(ModelError, match="can run code") as refused:
        resolve_model(wanted)
    assert "safetensors" in refused.value.hint


@pytest.mark.parametrize("trusted", [False, True])
@pytest.mark.parametrize(
    "named",
    [
        {"attn_implementation": "stranger/kernel"},
        {"_attn_implementation": {"": "sdpa", "text_config": "stranger/kernel:fast"}},
        {"text_config": {"_attn_implementation_internal": "paged|stranger/kernel"}},
    ],
)
def test_a_models_configuration_names_no_kernel_of_strangers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: dict[str, object], trusted: bool
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    folder = tmp_path / "model"
    shutil.copytree(PACKAGE / "demo" / "model", folder)
    about = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**about, **named}))
    (tmp_path / "workbench").mkdir()
    if trusted:
        text = f'[models]\ntrust_remote_code = [{{name = "{folder}"}}]\n'
        (tmp_path / "workbench" / "config.toml").write_text(text)
        assert resolve_model(load_recipe_with(str(folder))).model_type == "llama"
    else:
        with pytest.raises(ModelError, match="code from the hub"):
            resolve_model(load_recipe_with(str(folder)))


def load_recipe_with(folder: str) -> Model:
    return Model(name=folder)


class Touch:
    """An object that creates a folder when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self._marker = marker

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self._marker),)


@pytest.mark.parametrize("name", ["optimizer.pt", "rng_state.pth"])
def test_a_checkpoint_with_more_than_numbers_is_refused_whatever_its_digests(
    tmp_path: Path, name: str
) -> None:
    bench = trials.Bench(tmp_path / "home", trials.recipe())
    bench.run(on=trials.halt_at(2, Halt.YIELD))
    [path] = checkpoint.newest_first(bench.checkpoints)
    found = checkpoint.verify(path)
    (path / checkpoint.COMMIT).unlink()
    torch.save(Touch(tmp_path / "ran"), path / name)
    checkpoint.commit(path, bench.checkpoints, step=4, belongs=found.belongs, window=found.window)
    log = bench.run()
    assert "holds more than numbers" in log.end["reason"]
    assert not (tmp_path / "ran").exists()


def test_a_pickled_adapter_is_refused(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    (tmp_path / "adapter_model.bin").write_bytes(b"cos\nsystem\n(S'touch x'\ntR.")
    with pytest.raises(ModelError, match="can run code"):
        merge_adapter(tmp_path, tmp_path / "out")
