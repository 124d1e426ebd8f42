"""Heat, energy and limits as the commands show them, and the reason why a card is not used."""

from __future__ import annotations

import json
from typing import Any

from tests.cli.conftest import Workbench
from tests.support.tick_contexts import Bench, gpu_card, recipe
from workbench.trial import State


def drawing(bench: Bench, **changes: Any) -> None:
    """One GPU that counts a kWh over the life of trial 2."""
    bench.seen = [gpu_card(0, power_limit_w=350.0, energy_j=0.0, xid_watch=1, **changes)]
    with bench.store.writing():
        bench.store.db.execute("delete from cards")
    bench.submit(recipe())
    for _ in range(60):
        if bench.store.trial(2).state is State.DONE:
            break
        bench.seen = [{**bench.seen[0], "energy_j": bench.seen[0]["energy_j"] + 360.0}]
        bench.ticks(1)


def test_cards_tell_heat_power_energy_and_limits(bench: Bench, workbench: Workbench) -> None:
    drawing(bench)
    said = workbench("cards")
    assert "60 °C" in said.out
    assert "100 of 350 W" in said.out
    assert "Wh" in said.out
    assert "no new trial above 84 °C, pauses above 90 °C" in said.err
    [card] = workbench("cards", "--json").data
    assert card["energy_wh"] > 0
    assert card["xid_watch"] is True


def test_a_card_in_use_is_shown_as_such(bench: Bench, workbench: Workbench) -> None:
    user = {"pid": 7311, "bytes": 5 << 30, "name": "blender", "draws": False}
    drawing(bench, processes=[user])
    said = workbench("cards")
    assert "in use by others" in said.out
    assert "GPU-0: in use by pid 7311 (blender, 5.0 GiB)" in said.out
    assert "in use by pid 7311" in workbench("ls").out


def test_a_quarantine_is_shown_with_its_mend(bench: Bench, workbench: Workbench) -> None:
    drawing(bench)
    bench.seen = [{**bench.seen[0], "xids": json.dumps([[1.5, 79]])}]
    bench.ticks(1)
    said = workbench("cards")
    assert "GPU-0: quarantined: Xid 79, the card has fallen off the bus; check its" in said.out
    assert "workbench undrain GPU-0 --quarantine" in said.out


def test_energy_is_on_the_board_and_the_page_and_in_json(
    bench: Bench, workbench: Workbench
) -> None:
    drawing(bench)
    assert "energy" in workbench("show", 2).out
    [row] = workbench("board", "--json").data
    page = workbench("show", 2, "--json").data
    assert row["energy_wh"] == page["board"]["energy_wh"] == page["attempts"][0]["energy_wh"] > 0


def test_on_cpu_cards_there_is_none(bench: Bench, workbench: Workbench) -> None:
    bench.submit(recipe())
    bench.until(State.DONE, 2)
    assert "energy" not in workbench("show", 2).out
    assert "energy" not in workbench("board").out
    [row] = workbench("board", "--json").data
    assert row["energy_wh"] is None
