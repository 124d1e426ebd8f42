"""The boxes of a cluster as the head sees them: which answer, which come and go."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.ray_in_process import RayInProcess, node
from tests.support.waiting import wait_for
from workbench.cluster.settings import HeadSettings, boxes_file, write_settings
from workbench.fleet.boxes.agent import BoxAgent
from workbench.fleet.boxes.ray_boxes import RayBoxes
from workbench.home import Home


class Boxes:
    """A head with one box in this process."""

    def __init__(self, folder: Path) -> None:
        self.home, box = Home(folder / "head").make(), Home(folder / "box").make()
        box.token.write_text("secret")
        write_settings(self.home, HeadSettings(address="127.0.0.1"))
        self.ray = RayInProcess(lambda: BoxAgent(box))
        self.ray.living = [node("attic", 1)]
        self.boxes = RayBoxes(self.ray, self.home, lambda card, given: None)

    def state(self) -> str:
        self.boxes.look(at_once=True)
        return str(self.boxes.described()[0]["state"])


@pytest.fixture
def head(tmp_path: Path) -> Iterator[Boxes]:
    made = Boxes(tmp_path)
    wait_for(lambda: made.state() == "up", "the box is up", 30.0)
    yield made
    made.ray.goes_on.set()
    made.boxes.end()
    for link in made.boxes.links.values():
        link._thread.join()


def test_a_box_is_silent_only_while_a_question_has_no_answer(head: Boxes) -> None:
    link = head.boxes.links["attic"]
    wait_for(lambda: link.silent_s == 0.0, "every question is answered", 30.0)
    head.ray.silent.set()
    wait_for(lambda: link.silent_s > 0.0, "a question waits", 30.0)
    first = link.silent_s
    wait_for(lambda: link.silent_s > first, "the silence grows", 30.0)


def test_a_list_that_cannot_be_written_does_not_hold_the_loop_up(head: Boxes) -> None:
    boxes_file(head.home).unlink()
    boxes_file(head.home).mkdir()
    head.boxes._wrote_s = float("-inf")
    assert head.state() == "up"


def test_a_box_that_was_started_again_is_the_same_box(head: Boxes) -> None:
    first = head.boxes.links["attic"]
    head.ray.living = [node("attic", 2, "127.0.0.2")]
    wait_for(lambda: head.state() == "up", "the box is up", 30.0)
    again = head.boxes.links["attic"]
    assert (again is first, again.address) == (False, "127.0.0.2")
    assert [text for _, text in head.boxes.notes] == [
        "box attic has joined",
        "box attic is lost; its trials go on elsewhere",
        "box attic is back",
    ]


def test_a_second_machine_of_a_name_is_listed_and_not_used(head: Boxes) -> None:
    head.ray.living.append(node("attic", 2, "127.0.0.2"))
    head.boxes.look(at_once=True)
    listed = [(one["address"], one["state"]) for one in head.boxes.described()]
    assert listed == [("127.0.0.1", "up"), ("127.0.0.2", "unusable")]
