"""Starting and ending a home's engine, and waiting for either."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from contextlib import suppress

from workbench import fault_points
from workbench.engine_status import missing_address, stop_reason
from workbench.errors import EngineError
from workbench.home import read_runtime
from workbench.machine.locks import lock_holder
from workbench.machine.processes import (
    end_home_processes,
    end_process,
    identify_process,
    is_frozen,
)
from workbench.machine.python_children import python_command, python_environment
from workbench.machine.reserve_file import release_reserve
from workbench.service.requesting import POLL_S, Requesting


class EngineControl(Requesting):
    """The part of a service that starts and ends the engine."""

    def start_engine(self) -> None:
        """Start a keeper unless one lives, and forget that the engine was stopped.

        Raises StoreError, with nothing started, where the database cannot be used, and EngineError
        on a box of a cluster.
        """
        self.refuse_on_box()
        self.start_keeper()

    def start_keeper(self) -> None:
        """Start this machine's keeper: of its engine, or of a box that has joined a cluster."""
        fault_points.check_armed()
        self.reader()
        self.home.make()
        if lock_holder(self.home.keeper_lock) is not None:
            if self.stopping():
                self.send("engine-start")
            return
        self.home.stopped.unlink(missing_ok=True)
        with (self.home.logs / "keeper.log").open("ab") as log:
            subprocess.run(  # returns when the keeper has its lock, or found another's
                python_command("workbench.keeper"),
                check=False,
                env=python_environment({**os.environ, "WORKBENCH_HOME": str(self.home.root)}),
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def ensure_engine(self) -> bool:
        """Start the engine if it died or never ran, but not where it was stopped.

        Returns False where it was stopped, and so does not run.
        """
        engine = self.engine()
        if engine.state == "down":
            self.start_engine()
            return True
        return not engine.has_ended

    def stop_engine(self) -> str:
        """Ask the engine to checkpoint what runs, give the cards back, and end.

        Returns the request. Returns an empty string where no loop reads requests: where the engine
        is about to end already, and where a keeper waits for the address of its cluster, which is
        ended by a signal.
        """
        if self.engine().state == "stopping":
            return ""
        if lock_holder(self.home.loop_lock) is None and missing_address(self.home):
            self._end_keeper()
            return ""
        return self.send("engine-stop", keeper=lock_holder(self.home.keeper_lock))

    def end_without_room(self) -> bool:
        """End the engine by a signal to its keeper, where the disk has no room for a request.

        Trials continue later from their last checkpoints: there is no room for another. Returns
        False where not even the empty file could be made that keeps the engine stopped.
        """
        release_reserve(self.home.reserve_file)
        return self._end_keeper()

    def _end_keeper(self) -> bool:
        """Note that the engine is stopped, and end its keeper by a signal; False without a note."""
        try:
            self.home.stopped.touch()  # first: from its end on, any command may start an engine
            marked = True
        except OSError:
            marked = False
        keeper = lock_holder(self.home.keeper_lock)
        if keeper:
            with suppress(ProcessLookupError):
                os.kill(keeper, signal.SIGTERM)
        return marked

    def _keeper_is_frozen(self) -> bool:
        keeper = lock_holder(self.home.keeper_lock)
        return keeper is not None and is_frozen(keeper)

    def end_leftovers(self) -> list[str]:
        """End what an engine without a working keeper left behind; return what each process ran.

        Does nothing while a keeper works. A keeper that is stopped by a signal (SIGSTOP) does not
        work; it is ended first. Raises EngineError for processes that do not end.
        """
        keeper = lock_holder(self.home.keeper_lock)
        if keeper is not None and not is_frozen(keeper):
            return []
        runtime = read_runtime(self.home)
        if keeper and (known := identify_process(keeper)) is not None:
            end_process(known)
        ended, stubborn = end_home_processes(self.home.root, runtime)
        if stubborn:
            raise EngineError(
                f"processes {', '.join(map(str, stubborn))} of the engine do not end",
                hint="they wait for a driver or a disk; stop again later, or reboot the machine",
            )
        return ended

    def wait_for_engine(self, *, running: bool, timeout_s: float) -> None:
        """Wait until the engine ticks, or (`running` False) until its keeper has gone or hangs.

        Raises EngineError after `timeout_s`, and where it cannot start or is started again.
        """
        until, stopping = time.monotonic() + timeout_s, self.stopping()
        is_done = self._has_started if running else self._has_stopped
        while time.monotonic() < until:
            # Asked before the state: once the keeper has gone, nothing is being stopped.
            was_stopping, stopping = stopping, self.stopping()
            if is_done(stopping, was_stopping):
                return
            time.sleep(POLL_S)
        raise EngineError(
            f"the engine did not {'start' if running else 'stop'} within {timeout_s:.0f} s",
            hint=f"look into {self.home.logs}/keeper.log and loop.log, or run `workbench doctor`",
        )

    def _has_started(self, stopping: bool, was_stopping: bool) -> bool:
        """Return True where the engine ticks; start it again where it ended before it could go on.

        Raises EngineError where it cannot start. `was_stopping` is `stopping` at the look before.
        """
        state = self.engine().state
        if state == "stopped" and (why := stop_reason(self.home)) and why[0]:
            raise EngineError(f"the engine does not start: {why[0]}", hint=why[1])
        # It ended before it saw that it should go on, maybe before the first look.
        if state == "stopped" or (state == "down" and was_stopping):
            self.start_engine()
        return state == "running" and not stopping

    def _has_stopped(self, stopping: bool, was_stopping: bool) -> bool:
        """Return True where the keeper has gone, or hangs and `end_leftovers` does its work.

        Raises EngineError where somebody started the engine again.
        """
        state = self.engine().state
        if state in ("stopped", "down"):
            return True
        if self.home.stopped.exists() and self._keeper_is_frozen():
            return True
        if was_stopping and not stopping and state == "running":
            raise EngineError("it was started again before it had ended", hint="stop it again")
        return False
