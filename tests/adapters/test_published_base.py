"""An adapter names a base that a stranger can load, where this machine knows one."""

from __future__ import annotations

from pathlib import Path

from workbench.adapters.base_names import same_base
from workbench.adapters.published_base import PublishedBase, published_base
from workbench.recipe.shipped import shipped_file

COMMIT = "8cde5ca8380496c9a6cc7ef3a8b46a0372a1d920"
CACHED = f"/data/hub/models--meta-llama--Meta-Llama-3-8B/snapshots/{COMMIT}"


def test_a_folder_of_the_hubs_cache_is_named_by_its_hub_id_and_commit() -> None:
    found = published_base(CACHED)
    assert found == PublishedBase("meta-llama/Meta-Llama-3-8B", COMMIT)
    assert published_base(f"{CACHED}/") == found


def test_a_hub_id_stays_as_it_is() -> None:
    assert published_base("org/model", "a" * 40) == PublishedBase("org/model", "a" * 40)


def test_another_folder_is_named_by_itself_whatever_its_config_says(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"_name_or_path": "org/parent"}')
    assert published_base(str(tmp_path)) == PublishedBase(str(tmp_path), None)
    shipped = shipped_file("workbench:demo/model")
    assert published_base("workbench:demo/model") == PublishedBase(str(shipped), None)


def test_the_cached_folder_and_the_hub_id_are_one_base() -> None:
    assert same_base(CACHED, "meta-llama/Meta-Llama-3-8B")
    assert not same_base(CACHED, "org/Meta-Llama-3-8B")
