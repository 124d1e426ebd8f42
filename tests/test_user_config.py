"""The user's configuration: read strictly, told with file and line, and never a reason to stop."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from workbench.user_config import ConfigError, ConfigWatch, UserConfig, read_user_config

GIB = 1 << 30


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "config.toml"


def refusal(file: Path) -> str:
    with pytest.raises(ConfigError) as refused:
        read_user_config(file)
    return refused.value.what


def test_without_a_file_the_defaults_hold(file: Path) -> None:
    assert read_user_config(file) == UserConfig()


def test_it_lies_in_the_config_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    (tmp_path / "workbench").mkdir()
    (tmp_path / "workbench" / "config.toml").write_text("guards.share = true\n")
    assert read_user_config().guards.share


def test_a_program_to_log_to_is_on_where_its_section_is_there(file: Path) -> None:
    assert read_user_config(file).sinks() == {}
    file.write_text('[tensorboard]\n[wandb]\nmode = "offline"\n')
    sinks = read_user_config(file).sinks()
    assert list(sinks) == ["tensorboard", "wandb"]
    assert sinks["wandb"].model_dump()["mode"] == "offline"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ('[wandb]\nprojct = "x"', "wandb.projct is not a setting. Did you mean wandb.project?"),
        ('[wandb]\nmode = "online "', "wandb.mode"),
        ('[tensorboard]\nfolder = "runs"', "folder must be an absolute path"),
        ('[trackio]\nspace = "mine"', "trackio.space"),
    ],
)
def test_a_mistake_in_it_is_told(file: Path, line: str, expected: str) -> None:
    file.write_text(line)
    assert expected in refusal(file)


def test_every_setting_is_read(file: Path) -> None:
    file.write_text(
        """
        [guards]
        start_gap_s = 5
        no_start_above_c = 70
        pause_above_c = 80.5
        cooled_by_c = 4
        disk_floor = "20 GiB"
        ballast = "0"
        share = true
        foreign_above = "1GiB"
        [notify]
        command = ["notify-send", "done"]
        """
    )
    config = read_user_config(file)
    assert config.guards.start_gap_s == 5
    assert (config.guards.no_start_above_c, config.guards.pause_above_c) == (70, 80.5)
    assert (config.guards.disk_floor, config.guards.ballast) == (20 * GIB, 0)
    assert (config.guards.cooled_by_c, config.guards.foreign_above) == (4, GIB)
    assert config.guards.share
    assert config.notify.command == ["notify-send", "done"]


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        (
            "[guards]\n\nsahre = true\n",
            3,
            "guards.sahre is not a setting. Did you mean guards.share?",
        ),
        ("share = true\n", 1, "share is not a setting. Did you mean guards.share?"),
        ("[gaurds]\nshare = true\n", 1, "gaurds is not a setting. Did you mean guards?"),
        ('[guards]\nshare = "yes"\n', 2, "guards.share: "),
        ("[guards]\nshare = true\ndisk_floor = 5\n", 3, 'like "2GiB"'),
        ('[guards]\ndisk_floor = "lots"\n', 2, "no size"),
        ("[guards]\npause_above_c = 300\n", 2, "less than or equal to 120"),
        ("[guards]\nstart_gap_s = -1\n", 2, "greater than or equal to 0"),
        ("[guards]\nstart_gap_s = nan\n", 2, "guards.start_gap_s: "),
        ("# hot\n[guards]\npause_above_c = 60\n", 2, "no_start_above_c must be below"),
        ('[notify]\ncommand = "rm -rf /"\n', 2, "notify.command: "),
        ("[guards]\nshare = true\nshare = false\n", 3, "overwrite"),
        ("[guards]\nshare\n", 2, "Expected '='"),
        ("guards = 5\n", 1, "guards: "),
        ("[guards", 1, "Expected ']'"),
    ],
)
def test_a_mistake_is_reported_with_its_line(file: Path, text: str, line: int, says: str) -> None:
    file.write_text(text)
    told = refusal(file)
    assert told.startswith(f"{file}:{line}: ")
    assert says in told


def test_all_mistakes_are_reported_at_once(file: Path) -> None:
    file.write_text("[guards]\nshare = 1\nballast = 2\n[notify]\ncommands = []\n")
    assert len(refusal(file).splitlines()) == 3


@pytest.mark.parametrize(
    ("body", "says"),
    [(b"a = '\xff'", "is not UTF-8"), (b"#" * 100_000, "larger than"), (b"a=" + b"[" * 5000, ":")],
)
def test_garbage_is_refused(file: Path, body: bytes, says: str) -> None:
    file.write_bytes(body)
    assert says in refusal(file)


def test_a_file_that_others_may_write_is_not_read(file: Path) -> None:
    file.write_text('[notify]\ncommand = ["evil"]\n')
    file.chmod(0o666)
    assert "other users can write it" in refusal(file)


def test_what_is_no_file_is_refused_without_waiting(file: Path) -> None:
    os.mkfifo(file)
    assert "is not a regular file" in refusal(file)


def test_terminal_escapes_in_it_are_not_passed_on(file: Path) -> None:
    file.write_text('"\\u001b[31mred" = 1\n')
    assert "\x1b" not in refusal(file)


class TestWatch:
    def test_a_change_is_seen(self, file: Path) -> None:
        watch = ConfigWatch(file)
        assert not watch().guards.share
        file.write_text("[guards]\nshare = true\n")
        assert watch().guards.share
        file.unlink()
        assert not watch().guards.share

    def test_a_mistake_leaves_the_defaults_until_it_is_corrected(self, file: Path) -> None:
        watch = ConfigWatch(file)
        file.write_text("[guards]\nshare = 1\n")
        assert watch() == UserConfig()
        assert f"{file}:2" in watch.problem
        assert "the defaults apply" in watch.problem
        file.write_text("[guards]\nshare = true\n")
        assert watch().guards.share
        assert watch.problem == ""
