"""Tokens and passwords never reach the database, a log, a recipe's copy or a model card."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.tick_contexts import Bench, cpu_card, make_bench, recipe
from tests.support.waiting import wait_for
from workbench.attempts.events import EventWriter
from workbench.cli import main
from workbench.cli.errors import report_error
from workbench.errors import RecipeError
from workbench.home import Home
from workbench.recipe import load_recipe
from workbench.scheduler import process_requests
from workbench.scheduler.children.notifier import Notifier
from workbench.store.requests import drop_request
from workbench.text import safe_text
from workbench.text.redact import MASK, learn_secrets, redact
from workbench.trial import State

FORMED = "hf_" + "AbCdEfGhIjKlMnOpQrStUvWxYzAbCdEfGh"
NAMED = 'correct horse "battery" staple'
SHAPES = (
    FORMED,
    "sk-proj-0123456789abcdefghij",
    "ghp_0123456789abcdefghijABCDEFGHIJ456789",
    "AKIAIOSFODNN7EXAMPLE",
)
URLS = (
    ("https://me:pass-w0rd@host/model", "pass-w0rd"),
    ("https://host/rows.jsonl?access_token=tell-nobody&x=1", "tell-nobody"),
    ("s3://bucket/x?X-Amz-Signature=abcdef0123", "abcdef0123"),
    ("https://0123456789abcdef0123@host/org/model", "0123456789abcdef0123"),
)
IN_WORDS = (
    ("Authorization: Bearer abcdefgh.ijklmnop.qrst", "abcdefgh.ijklmnop.qrst"),
    ("Authorization: Basic dXNlcjpwYXNzLXcwcmQ=", "dXNlcjpwYXNzLXcwcmQ="),
    ("env: HF_TOKEN=tell-nobody PATH=/bin", "tell-nobody"),
    ("AWS_SECRET_ACCESS_KEY=/0123456789/+abc", "/0123456789/+abc"),
)


@pytest.fixture(autouse=True)
def _environment() -> Iterator[None]:
    learn_secrets({"WANDB_API_KEY": NAMED, "SOME_TOKEN": FORMED, "TOKENIZERS_PARALLELISM": "false"})
    yield
    learn_secrets(os.environ)


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    monkeypatch.setenv("WORKBENCH_HOME", str(tmp_path / "home"))
    bench = make_bench(tmp_path, [cpu_card(0)])
    yield bench
    bench.context.fleet.close()
    bench.store.close()


def leaks(home: Home, *secrets: str) -> list[str]:
    """Return the files that contain a secret, as plain text or as JSON."""
    told = {form.encode() for one in secrets for form in (one, json.dumps(one)[1:-1])}
    files = (path for path in home.root.rglob("*") if path.is_file())
    return [str(path) for path in files if any(one in path.read_bytes() for one in told)]


@pytest.mark.parametrize("secret", [*SHAPES, NAMED])
def test_what_is_secret_is_masked_wherever_text_is_made_safe(secret: str) -> None:
    assert safe_text(f"401 for {secret}, sorry") == f"401 for {MASK}, sorry"


@pytest.mark.parametrize(("url", "secret"), URLS)
def test_a_url_keeps_its_place_and_loses_its_secret(url: str, secret: str) -> None:
    assert secret not in redact(url)
    assert redact(url).split("://")[0] == url.split("://")[0]


@pytest.mark.parametrize(("text", "secret"), IN_WORDS)
def test_what_is_named_a_secret_loses_it(text: str, secret: str) -> None:
    assert secret not in redact(text)
    assert redact(text).startswith(text[:6])


def test_the_environments_secrets_are_known_whatever_they_look_like(tmp_path: Path) -> None:
    key = tmp_path / "id_rsa"
    key.touch()
    learn_secrets(
        {
            "AWS_SECRET_ACCESS_KEY": "/wJalrXUtnFEMI/K7MDENG",
            "HTTPS_PROXY": "http://me:pass-w0rd@proxy:3128",
            "SSH_KEY": str(key),
            "TOKEN_PATH": "/not/made/yet",
        }
    )
    for secret in ("/wJalrXUtnFEMI/K7MDENG", "pass-w0rd"):
        assert redact(f"refused: {secret}") == f"refused: {MASK}"
    for path in (str(key), "/not/made/yet"):
        assert redact(path) == path


@pytest.mark.parametrize(
    "text",
    [
        "learning_rate=0.001 max_tokens=512",
        "the pad token is <|finetune_right_pad_id|>",
        "https://huggingface.co/org/model/resolve/main/config.json?download=true",
        "task-level-1 disk-full-at-some-later-point false",
        "12:30 a:b@c",
        "ssh://git@github.com/org/model MAX_TOKENS=123456789 a Basic misunderstanding",
    ],
)
def test_plain_text_stays_as_it_is(text: str) -> None:
    assert redact(text) == text


@pytest.mark.parametrize(
    "line",
    [
        f"name: {FORMED}",
        f"model: {{name: org/{FORMED}}}",
        f"model: {{name: org/model, revision: {FORMED}}}",
        "data: {train: 'https://me:pass-w0rd@host/rows.jsonl'}",
        f"data: {{train: org/rows, columns: {{{FORMED}: text}}}}",
        f"data: {{train: org/rows, system: 'my key is {FORMED}'}}",
        f"evaluate: {{answer_pattern: '{FORMED}'}}",
        f"sweep: {{parameters: {{lora.bias: ['{FORMED}']}}}}",
        f"{FORMED}: 3",
    ],
)
def test_a_recipe_with_a_secret_is_refused_and_not_repeated(tmp_path: Path, line: str) -> None:
    whole = {
        "name": "name: x",
        "model": "model: {name: org/model}",
        "data": "data: {train: org/rows}",
    }
    whole[line.split(":")[0]] = line
    path = tmp_path / "r.yaml"
    path.write_text("\n".join(whole.values()))
    with pytest.raises(RecipeError) as refused:
        load_recipe(path, [])
    assert FORMED not in refused.value.what
    assert "pass-w0rd" not in refused.value.what


def test_a_request_that_holds_one_is_refused_and_kept_without_it(bench: Bench) -> None:
    wanted = recipe().model_dump(mode="json")
    wanted["model"]["revision"] = FORMED
    id = drop_request(bench.context.home.requests, "submit", {"recipe": wanted, "note": NAMED})
    process_requests(bench.context)
    answer = bench.store.answer(id)
    assert answer is not None
    assert not answer.ok
    assert leaks(bench.context.home, FORMED, NAMED) == []


def test_what_a_worker_says_reaches_neither_its_file_nor_the_store(bench: Bench) -> None:
    bench.submit(recipe())
    bench.until(State.RUNNING, 2)
    [attempt, *_] = bench.store.live_attempts()
    writer = EventWriter(bench.context.home.attempt(attempt.id) / "events.jsonl")
    writer.write("log", text=f"GET https://u:pass-w0rd@hub with {FORMED} and {NAMED}")
    writer.write("sample", question=FORMED, expected=NAMED, answer=FORMED, right=True)
    writer.write("end", outcome="failed", reason=f"401 {FORMED}", hint=NAMED)
    writer.close()
    bench.ticks(2)
    bench.store.note("x", f"{FORMED} {NAMED}")
    assert bench.store.trial(2).reason == f"401 {MASK}"
    assert leaks(bench.context.home, FORMED, NAMED, "pass-w0rd") == []


def test_what_reaches_the_store_past_it_is_masked_on_the_terminal(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    bench.submit(recipe())
    bench.context.home.stopped.touch()  # else `ls` starts an engine: work waits
    bench.store.db.execute("update trials set reason = ?, waiting = ?", (FORMED, NAMED))
    commands = (["ls", "--all"], ["show", "2"], ["board"], ["logs", "2"], ["ls", "--all", "--json"])
    for command in commands:
        main(command)
        said = capsys.readouterr()
        assert not {FORMED, NAMED} & set((said.out + said.err).split("  "))
        assert FORMED not in said.out + said.err


def test_what_an_end_tells_and_what_its_command_prints_is_without_it(
    bench: Bench, tmp_path: Path
) -> None:
    kept = tmp_path / "kept"
    script = f"import sys; open({str(kept)!r}, 'w').write(sys.stdin.read()); print({FORMED!r})"
    command = [sys.executable, "-c", script]
    notifier = bench.context.notifier = Notifier(bench.context.home, lambda: command)
    id = bench.submit(recipe())
    bench.store.mark_refused(id, "no", "")
    bench.store.db.execute("update experiments set reason = ?", (f"401 {FORMED}",))
    bench.ticks(1)
    wait_for(lambda: all(child.poll() is not None for _, child in notifier._running), "its end")
    assert json.loads(kept.read_text())["reason"] == f"401 {MASK}"
    assert (bench.context.home.logs / "notify.log").read_text().startswith(f"{MASK}\n")


def test_a_traceback_is_kept_without_it(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    assert report_error(ZeroDivisionError(f"while sending {FORMED}")) == 1
    assert FORMED not in capsys.readouterr().err
    kept = [*bench.context.home.logs.glob("workbench-*.txt")]
    assert kept
    assert leaks(bench.context.home, FORMED) == []


def test_the_logs_of_our_processes_are_without_it() -> None:
    code = """
import logging
from workbench.text.redact import log_without_secrets
log_without_secrets("%(levelname)s %(message)s")
logging.getLogger("x").error("with %s", "a-long-password")
raise ValueError("once more: a-long-password")
"""
    env = {**os.environ, "DB_PASSWORD": "a-long-password"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert done.stderr.startswith(f"ERROR with {MASK}\n")
    assert done.stderr.endswith(f"ValueError: once more: {MASK}\n")
    assert "a-long-password" not in done.stderr
    assert logging.getLogger().level != logging.CRITICAL


def test_the_model_card_is_without_it() -> None:
    from workbench.training.model.card import model_card

    wild = recipe()
    wild = wild.model_copy(update={"name": f"run {FORMED}"})
    assert FORMED not in model_card(wild, {"values": {}, "step": 1}, {"torch": "2"})
