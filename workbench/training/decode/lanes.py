"""Many prompts at once: a lane each over the cache, one token a step, without the host's help.

Everything that a step reads and writes lies on the card: last tokens, positions, what was
generated, which lanes have ended. On a card a step is a CUDA graph, captured once for each number
of lanes; the host replays it and looks at the ended lanes every few tokens. Lanes that have ended
are refilled from waiting prompts (continuous batching: Yu et al. 2022, "Orca", OSDI).
"""

# L lanes, B lanes of a step, T tokens of a pass, R prompts, N new tokens, V vocabulary

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from workbench.training.decode.cache import KeyValueCache
from workbench.training.decode.draws import drawn_scores
from workbench.training.decode.forward import FastForward, Pass
from workbench.training.step.graphs import side_stream

log = logging.getLogger(__name__)

SHRINK = 2
"""A step of fewer lanes is captured once so many times fewer are left."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """The tokens that a lane starts from."""

    ids: Sequence[int]
    most: int
    """New tokens at most."""
    adapter: int = 0
    """The index of its adapter among those of the FastForward."""
    temperature: float = 0.0
    """0 takes the likeliest token each time; above it tokens are drawn."""
    seed: int = 0
    """The seed of the draws, which depend on nothing else."""


class Lanes:
    """The state of the prompts that are being answered, and the step that advances them."""

    def __init__(
        self,
        forward: FastForward,
        lanes: int,
        *,
        positions: int,
        most: int,
        ends: Sequence[int],
        capture: bool = True,
    ) -> None:
        """Allocate for `lanes` prompts of at most `positions` tokens, new ones included.

        At most `most` of them are new. An answer ends at one of `ends`.
        """
        device = forward.device
        self.lanes = lanes
        self._forward = forward
        self._cache = KeyValueCache(forward.cache_shape, lanes, positions, forward.dtype, device)
        whole: dict[str, Any] = {"dtype": torch.int64, "device": device}
        self._ends = torch.tensor(sorted(ends), **whole)
        # One lane more than asked for: a step of more lanes than are left fills up with it.
        self._tokens_L = torch.zeros(lanes + 1, **whole)
        self._positions_L = torch.zeros(lanes + 1, **whole)
        self._adapter_L = torch.zeros(lanes + 1, **whole)
        self._count_L = torch.zeros(lanes + 1, **whole)
        self._most_L = torch.ones(lanes + 1, **whole)
        self._seed_L = torch.zeros(lanes + 1, **whole)
        self._temperature_L = torch.zeros(lanes + 1, device=device)
        self._drawing: set[int] = set()
        """The lanes whose tokens are drawn; steps without any spare the noise."""
        self._done_L = torch.ones(lanes + 1, dtype=torch.bool, device=device)
        self._new_LN = torch.zeros(lanes + 1, most, **whole)
        self._active_L = torch.full((lanes,), lanes, **whole)
        self._captures = capture and device.type == "cuda"
        self._graphs: dict[tuple[int, bool], torch.cuda.CUDAGraph] = {}
        self._mixed = len(forward.adapters) > 1

    @property
    def positions(self) -> int:
        """Tokens that a lane has room for."""
        return self._cache.positions

    def grow(self, positions: int) -> None:
        """Make room for so many tokens a lane; what was read and generated is kept.

        Holds both caches for a moment, and steps are captured again.
        """
        if positions <= self.positions:
            return
        self._graphs.clear()
        more = positions - self.positions
        self._new_LN = torch.nn.functional.pad(self._new_LN, (0, more))
        self._cache = self._cache.grown(positions)

    # -- prompts

    def start(self, lanes: Sequence[int], prompts: Sequence[Prompt]) -> None:
        """Read the prompts into the lanes, and choose the first token of each."""
        device = self._forward.device
        lengths = [len(prompt.ids) for prompt in prompts]
        lanes_R = torch.tensor(list(lanes))
        lengths_R = torch.tensor(lengths)
        adapters_R = torch.tensor([prompt.adapter for prompt in prompts])
        cu = torch.nn.functional.pad(lengths_R.cumsum(0), (1, 0))
        positions_T = torch.cat([torch.arange(length) for length in lengths])
        ids_T = torch.tensor([id for prompt in prompts for id in prompt.ids])
        read = Pass(
            cache=self._cache,
            slots_T=lanes_R.repeat_interleave(lengths_R).to(device),
            positions_T=positions_T.to(device),
            adapter_T=adapters_R.repeat_interleave(lengths_R).to(device) if self._mixed else None,
            cu=cu.to(device, torch.int32),
            max_length=max(lengths),
        )
        hidden_TD = self._forward.hidden(ids_T.to(device), read)
        last_R = (cu[1:] - 1).to(device)
        at = lanes_R.to(device)
        self._adapter_L[at] = adapters_R.to(device)
        self._most_L[at] = torch.tensor([prompt.most for prompt in prompts]).to(device)
        seeds = [prompt.seed & 0xFFFFFFFF for prompt in prompts]
        self._seed_L[at] = torch.tensor(seeds).to(device)
        heats = [prompt.temperature for prompt in prompts]
        self._temperature_L[at] = torch.tensor(heats).to(device)
        self._drawing.difference_update(lanes)
        self._drawing |= {lane for lane, heat in zip(lanes, heats, strict=True) if heat > 0}
        self._count_L[at] = 0
        self._done_L[at] = False
        # The position of the last token read; _take() goes on by one.
        self._positions_L[at] = lengths_R.to(device) - 1
        with torch.no_grad():
            logits_RV = self._forward.logits(hidden_TD.index_select(0, last_R))
            self._take(at, logits_RV, draws=any(heat > 0 for heat in heats))

    def _take(self, lanes_B: Tensor, logits_BV: Tensor, *, draws: bool) -> None:
        """Choose the next token of each lane and write it down; lanes that have ended stay."""
        count_B = self._count_L.index_select(0, lanes_B)
        if draws:
            heat_B, seed_B = (
                x.index_select(0, lanes_B) for x in (self._temperature_L, self._seed_L)
            )
            logits_BV = drawn_scores(logits_BV, heat_B, seed_B, count_B)
        next_B = logits_BV.argmax(-1)
        done_B = self._done_L.index_select(0, lanes_B)
        going_B = (~done_B).long()
        at_B = count_B.clamp(max=self._new_LN.shape[1] - 1)
        before_B = self._new_LN[lanes_B, at_B]
        self._new_LN[lanes_B, at_B] = torch.where(done_B, before_B, next_B)
        count_B = count_B + going_B
        ended_B = (next_B[:, None] == self._ends).any(1)
        ended_B |= count_B >= self._most_L.index_select(0, lanes_B)
        self._tokens_L.index_copy_(0, lanes_B, next_B)
        self._count_L.index_copy_(0, lanes_B, count_B)
        self._done_L.index_copy_(0, lanes_B, done_B | ended_B)
        moved_B = self._positions_L.index_select(0, lanes_B) + going_B
        self._positions_L.index_copy_(0, lanes_B, moved_B.clamp(max=self._cache.positions - 1))

    # -- steps

    def advance(self, lanes: Sequence[int], steps: int) -> None:
        """Add up to `steps` tokens to each of the lanes; nothing is waited for."""
        size, draws = self._step_size(len(lanes)), not self._drawing.isdisjoint(lanes)
        padded = [*lanes, *[self.lanes] * (size - len(lanes))]
        self._active_L[:size] = torch.tensor(padded, device=self._forward.device)
        graph = self._graph(size, draws=draws) if self._captures else None
        for _ in range(steps):
            if graph is None:
                self._step(size, draws=draws)
            else:
                graph.replay()

    def ended(self, lanes: Sequence[int]) -> dict[int, list[int]]:
        """Return the new tokens of each of the lanes that has ended. Waits for the card."""
        done = self._done_L.tolist()
        return self.new_tokens([lane for lane in lanes if done[lane]])

    def new_tokens(self, lanes: Sequence[int]) -> dict[int, list[int]]:
        """Return the new tokens of each of the lanes so far. Waits for the card."""
        if not lanes:
            return {}
        at = torch.tensor(list(lanes), device=self._forward.device)
        counts = self._count_L[at].tolist()
        rows = self._new_LN[at, : max(counts)].tolist()
        each = zip(lanes, rows, counts, strict=True)
        return {lane: row[:count] for lane, row, count in each}

    def release(self) -> None:
        """Give the graphs' memory back."""
        self._graphs.clear()

    def _step_size(self, lanes: int) -> int:
        """Return how many lanes a step for so many computes: few sizes, so few captures."""
        if not self._captures:
            return lanes
        size = self.lanes
        while size > 4 and lanes <= size // SHRINK:
            size //= SHRINK
        return size

    def _step(self, size: int, *, draws: bool) -> None:
        """Add one token to the first `size` active lanes; captured, so it reads nothing here."""
        lanes_B = self._active_L[:size]
        ids_B = self._tokens_L.index_select(0, lanes_B)
        hidden_BD = self._forward.hidden(ids_B, self._pass_of(lanes_B))
        with torch.no_grad():
            self._take(lanes_B, self._forward.logits(hidden_BD), draws=draws)

    def _pass_of(self, lanes_B: Tensor) -> Pass:
        """Return the pass in which each of the lanes is one token."""
        return Pass(
            cache=self._cache,
            slots_T=lanes_B,
            positions_T=self._positions_L.index_select(0, lanes_B),
            adapter_T=self._adapter_L.index_select(0, lanes_B) if self._mixed else None,
        )

    def _graph(self, size: int, *, draws: bool) -> torch.cuda.CUDAGraph | None:
        """Return the graph of a step; None where it cannot be captured, which is logged once."""
        if (size, draws) in self._graphs:
            return self._graphs[size, draws]
        device = self._forward.device
        kept = self._active_L.clone()
        self._active_L.fill_(self.lanes)  # the runs before the capture write to the spare lane
        side = side_stream(device)
        side.wait_stream(torch.cuda.current_stream(device))
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.stream(side):
                self._step(size, draws=draws)
            torch.cuda.current_stream(device).wait_stream(side)
            with torch.cuda.graph(graph, stream=side, capture_error_mode="thread_local"):
                self._step(size, draws=draws)
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, ValueError) as refused:
            self._captures = False
            log.warning("no CUDA graphs", extra={"why": str(refused).splitlines()[0]})
            return None
        finally:
            self._active_L.copy_(kept)
        self._graphs[size, draws] = graph
        return graph
