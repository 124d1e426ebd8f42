"""One write at a time, beside training; what it raises is raised where training waits for it."""

from __future__ import annotations

import threading

import pytest

from workbench.training.checkpoints.background_writer import BackgroundWriter

LIMIT_S = 30


def fails() -> None:
    raise OSError("no room")


def test_start_returns_while_the_write_is_under_way_and_the_next_one_waits_for_it() -> None:
    writer, may_end, done = BackgroundWriter(), threading.Event(), list[str]()

    def first() -> None:
        assert may_end.wait(LIMIT_S)
        done.append("first")

    writer.start(first)
    writer.check()
    assert writer.busy
    assert done == []
    threading.Timer(0.05, may_end.set).start()
    writer.start(lambda: done.append("second" if done == ["first"] else "too early"))
    writer.wait()
    assert done == ["first", "second"]
    assert not writer.busy


def test_a_queued_write_comes_after_the_one_before_without_a_wait() -> None:
    writer, may_end, done = BackgroundWriter(), threading.Event(), list[str]()

    def first() -> None:
        assert may_end.wait(LIMIT_S)
        done.append("first")

    writer.start(first)
    writer.queue(lambda: done.append("second"))
    assert done == []
    may_end.set()
    writer.wait()
    assert done == ["first", "second"]


def test_a_queued_write_is_left_out_where_the_one_before_failed() -> None:
    writer, ran = BackgroundWriter(), list[bool]()
    writer.start(fails)
    writer.queue(lambda: ran.append(True))
    with pytest.raises(OSError, match="no room"):
        writer.wait()
    assert ran == []


@pytest.mark.parametrize("how", ["wait", "start", "exit"])
def test_an_error_of_the_write_is_raised_once_by(how: str) -> None:
    writer, ran = BackgroundWriter(), list[bool]()
    writer.start(fails)
    with pytest.raises(OSError, match="no room"):
        match how:
            case "wait":
                writer.wait()
            case "start":
                writer.start(lambda: ran.append(True))
            case "exit":
                with writer:
                    pass
    writer.wait()
    assert ran == []


def test_check_raises_the_error_of_a_write_that_has_ended() -> None:
    writer, may_end = BackgroundWriter(), threading.Event()

    def late() -> None:
        assert may_end.wait(LIMIT_S)
        fails()

    writer.start(late)
    writer.check()
    may_end.set()
    with pytest.raises(OSError, match="no room"):
        while writer.busy:
            writer.check()


@pytest.mark.parametrize(
    ("raised", "expected"),
    [(ValueError("later"), OSError), (KeyboardInterrupt(), KeyboardInterrupt)],
    ids=["an error", "ctrl-c"],
)
def test_an_error_of_the_write_came_before_one_of_the_block(
    raised: BaseException, expected: type[BaseException]
) -> None:
    writer = BackgroundWriter()
    with pytest.raises(expected) as found, writer:
        writer.start(fails)
        raise raised
    assert expected is KeyboardInterrupt or found.value.__context__ is raised
