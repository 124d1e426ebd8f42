"""Heat, energy and limits as the commands show them, and the reason why a card is not used."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from typing import Any

import pytest

from tests.cli.conftest import Workbench
from tests.support.tick_contexts import Bench, gpu_card, recipe
from workbench.cli.trials.follow import Narrator
from workbench.formatting import cards_used
from workbench.trial import State


def drawing(bench: Bench, ago_s: float = 0.0, **changes: Any) -> None:
    """One GPU that counts a kWh over the life of trial 2, which began `ago_s` before now."""
    bench.now = time.time() - ago_s
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


def test_measurements_of_an_engine_that_ended_are_not_shown_as_the_present_ones(
    bench: Bench, workbench: Workbench
) -> None:
    drawing(bench, ago_s=3600.0, utilisation=99)
    assert bench.store.cards()[0].utilisation == 99
    said = workbench("cards")
    assert "GPU-0" in said.out
    assert "°C" not in said.out
    assert "%" not in said.out
    [card] = workbench("cards", "--json").data
    assert card["temperature_c"] == 60
    assert card["seen_utc"] < time.time() - 3000


def test_a_card_in_use_is_shown_as_such(bench: Bench, workbench: Workbench) -> None:
    user = {"pid": 7311, "bytes": 5 << 30, "name": "blender", "draws": False}
    drawing(bench, processes=[user])
    said = workbench("cards")
    assert "in use by others" in said.out
    assert "GPU-0: in use by pid 7311 (blender, 5.0 GiB)" in said.out
    assert "in use by pid 7311" in workbench("ls").out


IDLE_OR_NOT = {"pid": 4711, "bytes": 1 << 29, "name": "python", "draws": False}
LEFT_OUT = "1 of 2 cards used: card 1 is in use by pid 4711 (python, 0.5 GiB)"


def two_cards(bench: Bench) -> None:
    """A sweep on the first of two GPUs; a program of another user is on the second."""
    cards = gpu_card(0), gpu_card(1, processes=[IDLE_OR_NOT])
    bench.seen = [{**card, "index": n, "bus": ""} for n, card in enumerate(cards)]
    bench.ticks(1)
    sweep = {"parameters": {"train.seed": [1, 2, 3]}}
    bench.submit(recipe(sweep=sweep, train={"max_steps": 900, "learning_rate": 0.1}))
    bench.until(State.RUNNING, 2)


def test_ls_tells_which_card_is_left_out_and_why(bench: Bench, workbench: Workbench) -> None:
    two_cards(bench)
    assert LEFT_OUT in " ".join(workbench("ls").out.split())
    bench.seen = [{**card, "processes": []} for card in bench.seen]
    bench.ticks(5)
    assert "cards used" not in workbench("ls").out


def test_followers_are_told_once_which_card_is_left_out(bench: Bench) -> None:
    two_cards(bench)
    narrator = Narrator(clock=lambda: 0.0)
    told = list(narrator.card_news(bench.trials(), LEFT_OUT))
    assert [line.split("  ", 1)[1] for line in told] == [LEFT_OUT]
    grown = LEFT_OUT.replace("0.5 GiB", "0.6 GiB")
    assert list(narrator.card_news(bench.trials(), grown)) == []
    [line] = narrator.card_news(bench.trials(), "")
    assert line.endswith("all cards are used again")


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"drained": True}, "is drained"),
        ({"quarantined": "Xid 79"}, "is quarantined"),
        ({"problem": "GPU is lost"}, "has a problem: GPU is lost"),
        ({"guard": "cools: at 85 °C"}, "cools: at 85 °C"),
        ({"drained": True, "trial": 2}, ""),
        ({"present": False, "drained": True}, ""),
    ],
)
def test_a_card_is_left_out_by_a_person_a_guard_or_its_own_fault(
    bench: Bench, changes: dict[str, Any], why: str
) -> None:
    bench.seen = [gpu_card(0), gpu_card(1)]
    bench.ticks(1)
    first, second = [row for row in bench.store.cards() if row.kind == "cuda"]
    told = cards_used([first, replace(second, **changes)], {})
    assert told == (f"1 of 2 cards used: GPU-1 {why}" if why else "")


def test_programs_that_share_a_card_are_shown(bench: Bench, workbench: Workbench) -> None:
    drawing(bench, processes=[{**IDLE_OR_NOT, "bytes": 1 << 20}])
    assert "GPU-0: other programs hold memory: pid 4711" in workbench("cards").out


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
