"""An adapter goes to a hub whole and in one commit, privately, with a token of the environment."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Said, Workbench
from tests.support.stand_in_hub import StandInHub, stand_in_hub
from workbench.cli import main
from workbench.errors import CheckpointError
from workbench.export.push import files_to_send

SENT = ["README.md", "adapter_config.json", "adapter_model.safetensors", "recipe.yaml"]


@pytest.fixture
def repositories(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, dict[str, Any]]]:
    with stand_in_hub() as (address, found):
        monkeypatch.setenv("HF_ENDPOINT", address)
        monkeypatch.setenv("HF_TOKEN", StandInHub.token)
        monkeypatch.setenv("HF_HUB_OFFLINE", "0")
        yield found


@pytest.fixture
def workbench(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Workbench:
    """Runs one command in this process; its child writes to the same stderr."""
    monkeypatch.setenv("WORKBENCH_HOME", str(tmp_path / "home"))

    def run(*argv: str | Path) -> Said:
        code = main([str(word) for word in argv])
        out, err = capfd.readouterr()
        return Said(code, out, err)

    return run


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "adapter_config.json").write_text(
        json.dumps({"base_model_name_or_path": "someone/base", "r": 4})
    )
    (folder / "adapter_model.safetensors").write_bytes(bytes(range(256)))
    (folder / "README.md").write_text("---\nlibrary_name: peft\n---\n# mine\n")
    (folder / "recipe.yaml").write_text("name: mine\n")
    (folder / "optimizer.pt").write_bytes(b"stays")
    return folder


def test_without_a_terminal_it_names_the_whole_command_that_does_not_ask(
    workbench: Workbench, adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    monkeypatch.setenv("HF_TOKEN", StandInHub.token)
    told = workbench("push", adapter, "me/sums")
    assert told.code == 2
    assert f"workbench push --yes {adapter} me/sums" in told.err.replace("\n", "")


def test_it_is_private_and_whole_after_one_commit(
    workbench: Workbench,
    repositories: dict[str, dict[str, Any]],
    adapter: Path,
) -> None:
    told = workbench("push", adapter, "me/sums", "--yes", "--json")
    assert told.code == 0, told.err
    assert told.data["files"] == SENT
    found = repositories["me/sums"]
    assert (found["private"], found["commits"]) == (True, 1)
    assert {name: (adapter / name).read_bytes() for name in SENT} == found["files"]
    again = workbench("push", adapter, "me/sums", "--yes")
    assert again.code == 0, again.err
    assert "private, 4 files" in again.out
    assert StandInHub.token not in told.out + told.err + again.out + again.err


def test_a_repository_that_is_public_gets_nothing_unasked(
    workbench: Workbench,
    repositories: dict[str, dict[str, Any]],
    adapter: Path,
) -> None:
    repositories["me/open"] = {"private": False, "files": {}, "commits": 0}
    told = workbench("push", adapter, "me/open", "--yes")
    assert (told.code, "exists and is public" in told.err) == (2, True)
    assert repositories["me/open"]["files"] == {}


def test_a_refused_token_is_named_by_its_variable(
    workbench: Workbench,
    repositories: dict[str, dict[str, Any]],
    adapter: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HF_TOKEN", "another-token")
    told = workbench("push", adapter, "me/sums", "--yes")
    assert told.code == 1
    assert "the hub refused" in told.err
    assert "HF_TOKEN" in told.err
    assert "another-token" not in told.err
    assert repositories == {}


def test_a_hub_that_does_not_answer_is_an_error_with_a_hint(
    workbench: Workbench, adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with stand_in_hub() as (address, _):
        monkeypatch.setenv("HF_ENDPOINT", address)  # closed when it is asked
    monkeypatch.setenv("HF_TOKEN", StandInHub.token)
    told = workbench("push", adapter, "me/sums", "--yes")
    assert told.code == 1
    assert "the hub did not answer" in told.err
    assert "try again" in told.err


def test_without_a_token_or_the_name_typed_again_nothing_is_sent(
    workbench: Workbench,
    repositories: dict[str, dict[str, Any]],
    adapter: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("me/other\n"))
    told = workbench("push", adapter, "me/sums")
    assert (told.code, "nothing was uploaded" in told.err) == (1, True)
    assert "only its owner can read" in told.err
    monkeypatch.delenv("HF_TOKEN")
    told = workbench("push", adapter, "me/sums", "--yes")
    assert (told.code, "HF_TOKEN is not set" in told.err) == (2, True)
    assert repositories == {}


def test_what_cannot_be_sent_is_refused_before_the_name_is_asked_for(
    workbench: Workbench, repositories: dict[str, dict[str, Any]], adapter: Path
) -> None:
    config = {"base_model_name_or_path": "/home/me/base"}
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    told = workbench("push", adapter, "me/sums")
    assert (told.code, "nobody else can load its base" in told.err) == (1, True)
    assert "only its owner can read" not in told.err
    assert repositories == {}


@pytest.mark.parametrize(
    ("file", "text", "why"),
    [
        ("adapter_config.json", '{"base_model_name_or_path": "/home/me/base"}', "nobody else"),
        ("adapter_config.json", "{}", "is damaged"),
        ("recipe.yaml", "token: hf_" + "a" * 34, "seems to hold a secret"),
    ],
)
def test_what_a_stranger_could_not_load_or_should_not_read_stays(
    file: str, text: str, why: str, adapter: Path
) -> None:
    (adapter / file).write_text(text)
    with pytest.raises(CheckpointError, match=why):
        files_to_send(adapter)


def test_a_folder_without_weights_is_refused(adapter: Path) -> None:
    (adapter / "adapter_model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="neither an adapter nor a model"):
        files_to_send(adapter)
