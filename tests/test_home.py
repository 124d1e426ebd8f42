"""The home: ours alone, and never somebody else's folder."""

from pathlib import Path

import pytest

from workbench.cli.recipes.train import default_folder
from workbench.errors import EngineError
from workbench.home import Home


def test_a_new_home_is_nobody_elses(tmp_path: Path) -> None:
    home = Home(tmp_path / "home").make()
    assert home.root.stat().st_mode & 0o777 == 0o700
    assert home.make() == home


def test_a_folder_with_other_things_in_it_is_refused_and_left_alone(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(EngineError, match="contains other files") as refused:
        Home(tmp_path).make()
    assert refused.value.hint
    assert tmp_path.stat().st_mode & 0o777 == 0o755
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_home_that_began_with_a_foreground_trial_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORKBENCH_HOME", str(tmp_path / "home"))
    default_folder("demo").mkdir(parents=True)
    assert Home(tmp_path / "home").make().requests.is_dir()


def test_a_home_whose_requests_were_removed_is_made_whole_again(tmp_path: Path) -> None:
    home = Home(tmp_path / "home").make()
    home.database.touch()
    for folder in (home.requests, home.cache, home.logs):
        folder.rmdir()
    home.make()
    assert all(folder.is_dir() for folder in (home.requests, home.cache, home.logs))


def test_a_home_under_a_file_is_refused_with_a_hint(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EngineError, match="not writable") as refused:
        Home(tmp_path / "file" / "home").make()
    assert "WORKBENCH_HOME" in refused.value.hint
