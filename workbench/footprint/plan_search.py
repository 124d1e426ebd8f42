"""Search among the ways to run one recipe on one card for the fastest that fits."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

from workbench.footprint.card_limits import holds_all_scores, precision_for
from workbench.footprint.cost import BatchCost
from workbench.footprint.micro_steps import padded_tokens
from workbench.footprint.model.families import has_formula
from workbench.footprint.model.shape import ModelShape
from workbench.footprint.model.target_names import adapts_tables
from workbench.footprint.peak.attention_path import kernel_for
from workbench.footprint.peak.buckets import Run, can_keep_graphs, host_bytes, predict, table_bytes
from workbench.footprint.peak.scoring_bytes import PACKED_LANES, generates, rows_asked, token_cost
from workbench.footprint.plan import Plan
from workbench.footprint.row_lengths import Lengths, sampled_batches
from workbench.machine.attention import attention_for
from workbench.machine.cards import Card
from workbench.recipe.schema import Recipe

DEQUANTISED_SHARE = 0.98
"""Share of the room up to which layers are dequantised: what only saves time leaves some room."""
FINER = 1.08
"""Ratio between neighbouring micro-step sizes that are tried where the rows' lengths are known."""

Changes = dict[str, Any]
"""New values of fields of a Run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanSearch:
    """A search for the fastest way to run one recipe on one card."""

    shape: ModelShape
    recipe: Recipe
    run: Run
    """The starting point: one row at a time, nothing recomputed."""
    attention: str
    """The implementation that transformers uses."""
    why: str
    """The reason for the attention, for people."""
    cost: BatchCost
    """The time of sampled batches, by which ways are compared."""

    @classmethod
    def of(cls, recipe: Recipe, config: Mapping[str, Any], card: Card, lengths: Lengths) -> Self:
        """Return the search for a recipe on a card.

        Raises ModelError for a model that cannot be planned, and WorkbenchError where the card
        lacks the precision or attention that the recipe names.
        """
        shape = ModelShape.of(config)
        precision = precision_for(card, recipe.model.precision)
        attention, why = attention_for(card, recipe.model.attention, softcap=shape.softcap)
        tokens = _longest_tokens(recipe, lengths["longest"])
        kernel, kernel_why = kernel_for(card, precision, shape, recipe.data.max_tokens)
        scored = lengths["scored"] or recipe.data.max_tokens
        run = Run(
            precision=precision,
            kernel=kernel,
            optimizer=optimizers_of(recipe)[-1],
            tokens_per_micro=tokens,
            longest=tokens,
            scored=min(scored, recipe.data.max_tokens),
            card_kind=card.kind,
            major=(card.capability or (0, 0))[0],
            eager=holds_all_scores(shape, card, attention),
        )
        sample = lengths["sample"]
        known = [tokens] if not sample or recipe.data.packing else sample
        trains = f"{kernel_why}; scores with {attention}"
        return cls(
            shape=shape,
            recipe=recipe,
            run=run,
            attention=attention,
            why=trains if shape.fused else why,
            cost=BatchCost(
                batches=sampled_batches(
                    [max(1, min(length, tokens)) for length in known],
                    recipe.train.rows_per_step,
                    grouped=recipe.data.group_by_length,
                ),
                layers=shape.layers,
                quantised=recipe.model.quantization == "nf4",
            ),
        )

    @property
    def batch(self) -> int:
        """Rows in one optimizer step."""
        return self.recipe.train.rows_per_step

    @property
    def quantised(self) -> bool:
        """True if the base's weights are stored in NF4."""
        return self.recipe.model.quantization == "nf4"

    @property
    def offloads(self) -> bool:
        """True if layers' inputs can wait in the machine's memory."""
        return self.shape.fused and self.run.card_kind == "cuda"

    @property
    def moves_tables(self) -> bool:
        """True if there are tables of embeddings that can stay in the machine's memory.

        A table with an adapter of its own is not left there.
        """
        known = has_formula(self.shape) and self.shape.table_params > 0
        return known and self.run.card_kind == "cuda" and not adapts_tables(self.recipe.lora)

    @property
    def leanest(self) -> Run:
        """One row at a time, with as much recomputed as the recipe allows."""
        return replace(self.run, **self.ways(self.recipe.train.gradient_checkpointing)[-1])

    @property
    def least(self) -> int:
        """Bytes of the leanest way."""
        return self.needed_bytes(self.leanest)

    def needed_bytes(self, run: Run) -> int:
        """Return the peak bytes of a way to run the recipe; takes some 50 µs."""
        return sum(predict(self.shape, self.recipe, run).values())

    def ways(self, asked: str) -> list[Changes]:
        """Return the ways to recompute that `train.gradient_checkpointing: {asked}` allows.

        The fastest is the first; each takes fewer bytes than the one before.
        """
        layers = self.shape.layers
        # PEFT's own modules, which other families train with, recompute all layers or none.
        some = range(layers + 1) if self.shape.fused else (0, layers)
        counts = {"auto": some, "on": (layers,), "off": (0,)}[asked]
        found: list[Changes] = [{"recompute_layers": count} for count in counts]
        last = found[-1]
        if self.moves_tables:  # one row a token, where offload moves one a token and layer
            last = {**last, "host_tables": True}
            found.append(last)
        if self.offloads and asked != "off":
            found.append({**last, "offload": True})
        return found

    def fastest(self, optimizer: str, sizes: Sequence[int], limit: int) -> Run | None:
        """Return the fastest way with micro-steps of one of `sizes` tokens within `limit` bytes.

        Returns None where none fits.
        """
        best: tuple[float, Run] | None = None
        for tokens in sizes:
            start = replace(self.run, optimizer=optimizer, tokens_per_micro=tokens)
            fastest_possible = replace(start, dequantised_layers=self.shape.layers)
            if best and self.cost.passes(fastest_possible) >= best[0]:
                continue  # slower than the best one even with unlimited room
            found = self._fitted(start, limit)
            if found is None:
                continue
            cost = self.cost.passes(found)
            if best is None or cost < best[0]:
                best = (cost, found)
        return best[1] if best else None

    def sizes(self) -> list[int]:
        """Return the micro-step sizes to try, in tokens, the largest first.

        Whole rows of the longest kind that divide the batch; where lengths are known and the step
        is fused, also sizes between what batches really hold.
        """
        longest = self.run.longest
        sizes = {rows * longest for rows in _divisors(self.batch)}
        batches = self.cost.batches
        known = len({length for batch in batches for length in batch}) > 1
        if known and self.shape.fused and self.run.card_kind == "cuda":
            least, most = (f(map(sum, batches)) for f in (min, max))
            size = min(longest, least / len(batches[0]))
            while size < most * FINER:
                if size >= longest or self.recipe.train.gradient_checkpointing == "auto":
                    sizes.add(min(padded_tokens(math.ceil(size)), self.batch * longest))
                size *= FINER
        return sorted(sizes, reverse=True)

    def plan(self, run: Run, limit: int) -> Plan:
        """Return the plan of `run`, with as many rows in an evaluation as fit `limit` bytes."""
        run = self.scored(run, lambda way: self.needed_bytes(way) <= limit)
        run = self._keeping(run, int(limit * DEQUANTISED_SHARE))
        buckets = predict(self.shape, self.recipe, run)
        return Plan(
            precision=run.precision,
            attention=self.attention,
            attention_why=self.why,
            optimizer=run.optimizer,
            rows_per_step=self.batch,
            tokens_per_micro=run.tokens_per_micro,
            longest=run.longest,
            recompute_layers=run.recompute_layers,
            long_recompute_layers=max(run.recompute_layers, run.long_recompute_layers),
            offload=run.offload,
            host_bytes=host_bytes(self.shape, run),
            host_tables=run.host_tables,
            table_bytes=table_bytes(self.shape, run),
            dequantised_layers=run.dequantised_layers,
            layers=self.shape.layers,
            predicted_bytes=sum(buckets.values()),
            buckets=buckets,
            eval_batch=run.eval_rows,
            eval_dequantised=run.eval_dequantised,
            keeps_graphs=run.keeps_graphs,
        )

    def scored(self, run: Run, fits: Callable[[Run], bool], lanes: int | None = None) -> Run:
        """Return `run` with the rows that are scored at once, at least one.

        They are as many as fit, of `lanes` where that is given. Where answers are generated from
        4-bit weights on a card, three ways are compared by the time of a token: with 4-bit weights,
        as many rows as fit; the same with no more than PACKED_LANES; and with dequantised copies of
        all weights. Where the recipe gives the number of rows, which all trials share, the way with
        the most rows is taken.
        """
        asked = lanes or rows_asked(self.recipe, decodes=run.decodes(self.shape))
        gpu_quantised = self.quantised and run.card_kind == "cuda"
        can_dequantise = gpu_quantised and run.decodes(self.shape) and generates(self.recipe)
        given = lanes is None and self.recipe.evaluate.batch_size != "auto"
        best: tuple[float, float, Run] | None = None
        ways = [(False, asked)]
        if can_dequantise:
            ways += [(False, PACKED_LANES)] * (asked > PACKED_LANES) + [(True, asked)]
        for kept, most in ways:
            way = replace(run, eval_dequantised=kept)
            rows = largest_fitting(most, lambda n, way=way: fits(replace(way, eval_rows=n)))  # type: ignore[misc]
            if not rows:
                continue
            cost = token_cost(
                self.shape, self.recipe, run.precision,
                lanes=rows, tokens=run.scored, kept=kept, hbm=run.major in (9, 10),
            )  # fmt: skip
            order = (-float(rows) if given else 0.0, cost)
            if best is None or order < best[:2]:
                best = (*order, replace(way, eval_rows=rows))
        return best[2] if best else replace(run, eval_rows=1)

    def _fitted(self, run: Run, limit: int) -> Run | None:
        """Return `run` changed as little as it takes to fit; None where nothing makes it fit.

        It gets the fewest recomputing layers that suffice; with none, as many dequantised layers
        as there is room for; where recomputing every layer is not enough, tables of embeddings go
        to the machine's memory, and then the layers' inputs. Rows that go alone recompute every
        layer at first, and then as few as the rest leaves room for.
        """
        layers, alone = self.shape.layers, run.tokens_per_micro < run.longest
        ways = self.ways(self.recipe.train.gradient_checkpointing)
        if alone:
            ways = [way for way in ways if "offload" not in way]
            run = replace(run, long_recompute_layers=layers)
        fewest = self._first_fitting(run, ways, limit)
        if fewest is None:
            return None
        run = fewest
        if run.host_tables and not run.offload:  # with the room that they leave, fewer layers do
            fewer = [{**way, "host_tables": True} for way in ways if "host_tables" not in way]
            run = self._first_fitting(run, fewer, limit) or run
        quantised = self.quantised and self.shape.fused
        if not run.recompute_layers and quantised and run.card_kind == "cuda":
            room = int(limit * DEQUANTISED_SHARE)
            most = largest_fitting(
                layers, lambda n: self.needed_bytes(replace(run, dequantised_layers=n)) <= room
            )
            run = replace(run, dequantised_layers=most)
            limit = room if most else limit
        if not alone:
            return run
        counts = range(run.recompute_layers, layers + 1)
        leaner = [{"long_recompute_layers": count} for count in counts]
        return self._first_fitting(run, leaner, limit)

    def _first_fitting(self, run: Run, ways: Sequence[Changes], limit: int) -> Run | None:
        """Return `run` changed in the first way that fits `limit` bytes; None where none does.

        By bisection, since each way takes less than the one before.
        """
        low, high = 0, len(ways) - 1
        if self.needed_bytes(replace(run, **ways[high])) > limit:
            return None
        while low < high:
            middle = (low + high) // 2
            fits = self.needed_bytes(replace(run, **ways[middle])) <= limit
            low, high = (low, middle) if fits else (middle + 1, high)
        return replace(run, **ways[low])

    def _keeping(self, run: Run, room: int) -> Run:
        """Return `run`, with graphs that stay while rows are scored where they fit `room` bytes."""
        keeps = replace(run, keeps_graphs=can_keep_graphs(self.shape, self.recipe, run))
        return keeps if self.needed_bytes(keeps) <= room else run


def optimizers_of(recipe: Recipe) -> tuple[str, ...]:
    """Return the optimizers that the recipe's setting stands for, the best first.

    An adapter's AdamW states are small (0.3 GiB at rank 16 on 8B), and bitsandbytes' optimizers
    synchronise the card after every tensor (30 to 40 ms a step on 8B): they are for little room.
    """
    if recipe.train.optimizer == "auto":
        return ("adamw_torch", "paged_adamw_8bit")
    return (recipe.train.optimizer,)


def largest_fitting(top: int, fits: Callable[[int], bool]) -> int:
    """Return the largest number up to `top` that fits, by bisection; 0 if none does."""
    low, high = 0, top
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low


def _longest_tokens(recipe: Recipe, longest: int | None) -> int:
    if longest is None or recipe.data.packing:
        return recipe.data.max_tokens
    return max(1, min(longest, recipe.data.max_tokens))


def _divisors(number: int) -> list[int]:
    """Return the divisors of `number`, the largest first.

    Of a batch beyond any card only the divisors below 65,537 and their counterparts are sought:
    a micro-step has to be of a size that a card could hold.
    """
    small = [n for n in range(1, min(int(number**0.5) + 1, 65_537)) if number % n == 0]
    return sorted({*small, *(number // n for n in small)}, reverse=True)
