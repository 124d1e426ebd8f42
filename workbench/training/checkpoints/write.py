"""The write of one checkpoint, from its contents in memory to its folder."""

from __future__ import annotations

import gc
import shutil
from dataclasses import dataclass
from pathlib import Path

from workbench import fault_points
from workbench.machine import staging
from workbench.training.checkpoints import checkpoint
from workbench.training.checkpoints.checkpoint import Checkpoint, Provenance
from workbench.training.checkpoints.contents import CheckpointContents
from workbench.training.control import Control, Emit
from workbench.training.failure import is_out_of_memory


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointWrite:
    """One checkpoint that is to be written; it runs on the writer's thread, and calls no CUDA."""

    contents: CheckpointContents
    checkpoints: Path
    step: int
    """Optimizer steps done."""
    belongs: Provenance
    window: dict[str, float]
    held_out: float | None
    control: Control
    emit: Emit

    def run(self) -> None:
        """Commit the checkpoint and report it; out of memory, try once more."""
        fault_points.at("checkpoint.copied")
        try:
            done = self._commit()
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            text = f"out of memory while the checkpoint of step {self.step} was written: once more"
            self.emit("log", level="warning", text=text)
            gc.collect()
            done = self._commit()
        self.emit("checkpoint", durable=True, step=done.step, path=str(done.path), bytes=done.bytes)

    def _commit(self) -> Checkpoint:
        """Write and publish the folder; raise Superseded where the attempt was replaced."""
        self.control.check_fence()
        staged = staging.stage_folder(checkpoint.folder_of(self.checkpoints, self.step))
        try:
            self.contents.fill(staged)
            self.control.check_fence()
            return checkpoint.commit(
                staged,
                self.checkpoints,
                step=self.step,
                belongs=self.belongs,
                window=self.window,
                held_out=self.held_out,
            )
        except BaseException:  # on a full disk, half a checkpoint would keep everybody from writing
            shutil.rmtree(staged, ignore_errors=True)
            raise
