"""The fastest plan that fits a card, or the nearest settings that would."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from workbench.errors import DoesNotFit, WorkbenchError
from workbench.footprint.attention_path import kernel_for
from workbench.footprint.buckets import GIB, Run, host_bytes, predict
from workbench.footprint.cost import passes
from workbench.footprint.micro_steps import bucket, parts
from workbench.footprint.model.shape import ModelShape
from workbench.footprint.plan import Plan
from workbench.footprint.row_lengths import UNREAD, Lengths, sampled_batches
from workbench.machine.attention import attention_for, capability_words
from workbench.machine.cards import CAP_SLACK_BYTES, Card
from workbench.recipe.schema import Recipe

DRIVER_BYTES = GIB // 2
"""Of NVML's total, what no process gets: 0.47 GiB on an H100 (NVML's total less CUDA's)."""
RESIDENT_SHARE = 0.98
"""Of the room, up to which layers are kept unpacked: what only saves time leaves some."""
FINER = 1.08
"""Ratio of sizes that a micro-step is tried with, where lengths are known."""


def choose_plan(
    recipe: Recipe,
    config: Mapping[str, Any],
    card: Card,
    free_bytes: int | None = None,
    longest: int | None = None,
    sample: Sequence[int] | None = None,
    scored: int | None = None,
    *,
    cut: int | None = None,
    advise: bool = True,
) -> Plan:
    """How to run `recipe` on `card`; `config` is the model's config.json.

    `free_bytes`: what can be had there now; left out, the whole card. `longest`: tokens of the
    longest row, `sample` of rows that stand for all, `scored` of the longest held-out one, where
    known. Of all ways to cut the batch into micro-steps, each with as few recomputing layers as it
    needs and as many unpacked ones as there is room for, the one that takes least time
    (footprint/cost.py) on batches of such rows; rows that are seldom as long may go alone, with
    more recomputing. Where recomputing all does not suffice, their inputs wait in the machine's
    memory. The batch is always the recipe's. `cut`: tokens of the micro-steps that a trial began
    with, which decide its dropout masks: kept where they can be.
    Raises DoesNotFit with the nearest settings that fit (to `advise` takes longer than the rest),
    ModelError for an unknown kind of model, WorkbenchError where the card lacks the precision or
    attention asked for by name.
    """
    search = _Search.of(recipe, config, card, longest, sample, scored)
    limit = limit_bytes(card, free_bytes)
    for sizes in ([cut] if cut else [], search.sizes()):
        for optimizer in _optimizers(recipe):
            found = search.fastest(optimizer, sizes, limit)
            if found is not None:
                return search.plan(found, limit)
    raise _refusal(search, card, limit, advise)


def least_bytes(
    recipe: Recipe, config: Mapping[str, Any], card: Card, lengths: Lengths = UNREAD
) -> int:
    """What a plan on a card of this kind takes at least. Raises as choose_plan, but DoesNotFit."""
    return _Search.of(recipe, config, card, **lengths).least


def priced(
    plan: Plan,
    recipe: Recipe,
    config: Mapping[str, Any],
    card: Card,
    lengths: Lengths = UNREAD,
) -> Plan:
    """`plan`, changed by hand, with the bytes that it takes the way it is now."""
    search = _Search.of(recipe, config, card, **lengths)
    run = replace(
        search.run,
        optimizer=plan.optimizer,
        precision=plan.precision,
        tokens=plan.tokens_per_micro,
        recompute_layers=plan.recompute_layers,
        long_recompute_layers=plan.long_recompute_layers,
        offload=plan.offload and search.offloads,
        resident_layers=plan.resident_layers,
        eval_rows=plan.eval_batch,
    )
    buckets = predict(search.shape, recipe, run)
    return replace(
        plan,
        buckets=buckets,
        predicted_bytes=sum(buckets.values()),
        offload=run.offload,
        host_bytes=host_bytes(search.shape, run),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Search:
    """What all ways to run one recipe on one card have in common."""

    shape: ModelShape
    recipe: Recipe
    run: Run
    """One row at a time, nothing recomputed."""
    attention: str
    why: str
    batches: Sequence[Sequence[int]]
    """Tokens of their rows, by which ways are compared."""
    held: dict[int, list[int]] = field(default_factory=dict)
    """Tokens of all their micro-steps, by the size that was asked about."""

    @classmethod
    def of(
        cls,
        recipe: Recipe,
        config: Mapping[str, Any],
        card: Card,
        longest: int | None,
        sample: Sequence[int] | None,
        scored: int | None,
    ) -> _Search:
        shape = ModelShape.of(config)
        precision = precision_for(card, recipe.model.precision)
        attention, why = attention_for(card, recipe.model.attention, softcap=shape.softcap)
        tokens = _tokens(recipe, longest)
        kernel, kernel_why = kernel_for(card, precision, shape, recipe.data.max_tokens)
        run = Run(
            precision=precision,
            kernel=kernel,
            optimizer=_optimizers(recipe)[-1],
            tokens=tokens,
            longest=tokens,
            scored=min(scored or recipe.data.max_tokens, recipe.data.max_tokens),
            card_kind=card.kind,
            major=(card.capability or (0, 0))[0],
            eager=_quadratic(shape, card, attention),
        )
        known = [tokens] if not sample or recipe.data.packing else sample
        trains = f"{kernel_why}; scores with {attention}"
        return cls(
            shape=shape,
            recipe=recipe,
            run=run,
            attention=attention,
            why=trains if shape.fused else why,
            batches=sampled_batches(
                [max(1, min(length, tokens)) for length in known],
                recipe.train.rows_per_step,
                grouped=recipe.data.group_by_length,
            ),
        )

    @property
    def batch(self) -> int:
        return self.recipe.train.rows_per_step

    @property
    def offloads(self) -> bool:
        """Whether layers' inputs can leave the card."""
        return self.shape.fused and self.run.card_kind == "cuda"

    def ways(self, asked: str) -> list[dict[str, Any]]:
        """To recompute, as train.gradient_checkpointing asks: the fastest first, then leaner."""
        layers = self.shape.layers
        # Other families recompute all layers or none.
        some = range(layers + 1) if self.shape.fused else (0, layers)
        counts = {"auto": some, "on": (layers,), "off": (0,)}[asked]
        found: list[dict[str, Any]] = [{"recompute_layers": count} for count in counts]
        if self.offloads and asked != "off":
            found.append({"recompute_layers": layers, "offload": True})
        return found

    @property
    def leanest(self) -> Run:
        """One row at a time, and as much recomputed as the recipe lets."""
        return replace(self.run, **self.ways(self.recipe.train.gradient_checkpointing)[-1])

    @property
    def least(self) -> int:
        return self.needs(self.leanest)

    def needs(self, run: Run) -> int:
        return sum(predict(self.shape, self.recipe, run).values())

    def fastest(self, optimizer: str, sizes: Sequence[int], limit: int) -> Run | None:
        """Of micro-steps of these sizes; None where none fits."""
        best: tuple[float, Run] | None = None
        for tokens in sizes:
            start = replace(self.run, optimizer=optimizer, tokens=tokens)
            if best and self._cost(replace(start, resident_layers=self.shape.layers)) >= best[0]:
                continue  # not even with all room there is
            found = self._fitted(start, limit)
            if found is None:
                continue
            cost = self._cost(found)
            if best is None or cost < best[0]:
                best = (cost, found)
        return best[1] if best else None

    def sizes(self) -> list[int]:
        """Of a micro-step, to be tried: so many whole rows; and what batches really hold."""
        longest = self.run.longest
        sizes = {rows * longest for rows in _divisors(self.batch)}
        known = len({length for batch in self.batches for length in batch}) > 1
        if known and self.shape.fused and self.run.card_kind == "cuda":
            least, most = (f(map(sum, self.batches)) for f in (min, max))
            size = min(longest, least / len(self.batches[0]))
            while size < most * FINER:
                if size >= longest or self.recipe.train.gradient_checkpointing == "auto":
                    sizes.add(min(bucket(math.ceil(size)), self.batch * longest))
                size *= FINER
        return sorted(sizes, reverse=True)

    def plan(self, run: Run, limit: int) -> Plan:
        """With as many rows in an evaluation as there is room for."""
        rows = max(
            1,
            _most(
                self.recipe.evaluate.batch_size,
                lambda n: self.needs(replace(run, eval_rows=n)) <= limit,
            ),
        )
        buckets = predict(self.shape, self.recipe, replace(run, eval_rows=rows))
        return Plan(
            precision=run.precision,
            attention=self.attention,
            attention_why=self.why,
            optimizer=run.optimizer,
            rows_per_step=self.batch,
            tokens_per_micro=run.tokens,
            longest=run.longest,
            recompute_layers=run.recompute_layers,
            long_recompute_layers=max(run.recompute_layers, run.long_recompute_layers),
            offload=run.offload,
            host_bytes=host_bytes(self.shape, run),
            resident_layers=run.resident_layers,
            layers=self.shape.layers,
            predicted_bytes=sum(buckets.values()),
            buckets=buckets,
            eval_batch=rows,
        )

    def _fitted(self, run: Run, limit: int) -> Run | None:
        """With the fewest layers recomputed; where none is, with the most unpacked; where all are
        too few, with their inputs in the machine's memory. Rows that go alone first get as much
        recomputed as there are layers, and then as few as leave the rest as it is."""
        layers, alone = self.shape.layers, run.tokens < run.longest
        ways = self.ways(self.recipe.train.gradient_checkpointing)
        if alone:
            ways = [way for way in ways if "offload" not in way]
            run = replace(run, long_recompute_layers=layers)
        fewest = _first(run, ways, lambda way: self.needs(way) <= limit)
        if fewest is None:
            return None
        run = fewest
        unpackable = self.recipe.model.quantization == "nf4" and self.shape.fused
        if not run.recompute_layers and unpackable and run.card_kind == "cuda":
            room = int(limit * RESIDENT_SHARE)
            most = _most(layers, lambda n: self.needs(replace(run, resident_layers=n)) <= room)
            run = replace(run, resident_layers=most)
            limit = room if most else limit
        if not alone:
            return run
        counts = range(run.recompute_layers, layers + 1)
        leaner = [{"long_recompute_layers": count} for count in counts]
        return _first(run, leaner, lambda way: self.needs(way) <= limit)

    def _cost(self, run: Run) -> float:
        """Passes of a token that the sampled batches take."""
        held = self.held.get(run.tokens)
        if held is None:
            held = [tokens for batch in self.batches for tokens in parts(batch, run.tokens)]
            self.held[run.tokens] = held
        longer = [tokens for tokens in held if tokens > run.tokens]
        total, long = sum(held), sum(longer)
        passed = partial(
            passes,
            layers=self.shape.layers,
            resident=run.resident_layers,
            packed=self.recipe.model.quantization == "nf4",
            offload=run.offload,
            new=run.major >= 9,
        )
        short = passed(total - long, len(held) - len(longer), again=run.recompute_layers)
        return short + passed(long, len(longer), again=run.long_recompute_layers)


def precision_for(card: Card, wanted: str) -> str:
    """bf16, fp16 or fp32 for `card`; WorkbenchError where it lacks the one asked for by name."""
    has_bf16 = card.kind == "cpu" or (card.capability is not None and card.capability >= (8, 0))
    if wanted == "auto":
        return "fp32" if card.kind == "cpu" else "bf16" if has_bf16 else "fp16"
    if wanted == "bf16" and not has_bf16:
        raise WorkbenchError(
            f"bf16 needs compute capability 8.0; {card.name} {capability_words(card)}",
            hint="set model.precision: auto, which is fp16 on this card",
        )
    if wanted == "fp16" and card.kind == "cpu":
        raise WorkbenchError(
            f"fp16 training needs a GPU; {card.name} is a CPU card",
            hint="set model.precision: auto, which is fp32 on this card",
        )
    return wanted


def limit_bytes(card: Card, free_bytes: int | None = None) -> int:
    """What a plan on `card` may take. Under a person's cap the worker keeps some to itself."""
    had = card.total_bytes - (DRIVER_BYTES if card.kind == "cuda" else 0)
    if card.cap_bytes is not None and card.kind == "cuda":
        had = min(had, card.cap_bytes - CAP_SLACK_BYTES)
    return max(0, min(card.usable_bytes, had, had if free_bytes is None else free_bytes))


def _optimizers(recipe: Recipe) -> tuple[str, ...]:
    """What `auto` stands for, best first.

    An adapter's AdamW states are small (0.3 GiB at rank 16 on 8B), and bitsandbytes' optimizers
    synchronise the card after every tensor (30–40 ms a step on 8B); they are for little room.
    """
    if recipe.train.optimizer == "auto":
        return ("adamw_torch", "paged_adamw_8bit")
    return (recipe.train.optimizer,)


def _tokens(recipe: Recipe, longest: int | None) -> int:
    if longest is None or recipe.data.packing:
        return recipe.data.max_tokens
    return max(1, min(longest, recipe.data.max_tokens))


def _quadratic(shape: ModelShape, card: Card, attention: str) -> bool:
    """Eager holds all scores; so does SDPA for grouped queries before Ampere (math path)."""
    old = card.kind == "cuda" and (card.capability or (0, 0)) < (8, 0)
    return attention == "eager" or (attention == "sdpa" and old and shape.kv_heads != shape.heads)


def _divisors(number: int) -> list[int]:
    """Downward. A batch beyond any card is cut to sizes a card could hold."""
    small = [n for n in range(1, min(int(number**0.5) + 1, 65_537)) if number % n == 0]
    return sorted({*small, *(number // n for n in small)}, reverse=True)


def _refusal(search: _Search, card: Card, limit: int, advise: bool) -> DoesNotFit:
    recipe, run, least = search.recipe, search.leanest, search.least

    def need(changed: Recipe = recipe, **how: Any) -> int:
        return sum(predict(search.shape, changed, replace(run, **how)).values())

    mends = list(_mends(search, run, need, limit)) if advise else []
    mends.append(f"use a card with {_gib_up(least + DRIVER_BYTES)} GiB")
    return DoesNotFit(
        f"{recipe.name} needs at least {least / GIB:.1f} GiB, one row of {run.longest} tokens at a "
        f"time; {card.name} has {limit / GIB:.1f} GiB to give",
        hint=", or ".join(mends),
    )


def _mends(search: _Search, run: Run, need: Callable[..., int], limit: int) -> Iterator[str]:
    """The nearest settings that fit, each alone."""
    recipe = search.recipe
    if not run.recompute_layers and need(**search.ways("auto")[-1]) <= limit:
        yield "set train.gradient_checkpointing: auto"
    nf4 = _with(recipe, "model", quantization="nf4")
    if recipe.model.quantization == "none" and need(nf4) <= limit:
        yield "set model.quantization: nf4"

    def shorter(tokens: int) -> bool:
        cut = _with(recipe, "data", max_tokens=tokens)
        scored = min(tokens, run.scored)
        return need(cut, tokens=tokens, longest=tokens, scored=scored) <= limit

    if tokens := _most(run.longest - 1, shorter):
        nice = tokens // 64 * 64 or tokens
        if nice >= 8:
            yield f"lower data.max_tokens to {nice}"
    rank = _most(recipe.lora.rank - 1, lambda n: need(_with(recipe, "lora", rank=n)) <= limit)
    if rank:
        yield f"lower lora.rank to {1 << (rank.bit_length() - 1)}"


def _with(recipe: Recipe, section: str, **changes: Any) -> Recipe:
    changed = getattr(recipe, section).model_copy(update=changes)
    return recipe.model_copy(update={section: changed})


def _most(top: int, fits: Callable[[int], bool]) -> int:
    """The largest number up to `top` that fits, by bisection; 0 if none does."""
    low, high = 0, top
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low


def _first(run: Run, ways: Sequence[dict[str, Any]], fits: Callable[[Run], bool]) -> Run | None:
    """`run` changed in the first way that fits, by bisection: each takes less than the one before;
    None where none does."""
    low, high = 0, len(ways) - 1
    if not fits(replace(run, **ways[high])):
        return None
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if fits(replace(run, **ways[middle])) else (middle + 1, high)
    return replace(run, **ways[low])


def _gib_up(size: int) -> int:
    return -(-size // GIB)
