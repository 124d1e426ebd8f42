"""Checks of a recipe against its prepared rows and its model, before anything is queued.

Each check finds a trial that would run to its end and say "done", although it learned or scored
nothing. A recipe for which that is certain is refused; one for which it is likely gets a note.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any, Protocol

from workbench.errors import DataError, RecipeError
from workbench.footprint.model.positions import model_positions
from workbench.recipe import Recipe, apply_settings
from workbench.recipe.space import values_of
from workbench.text import safe_line

MOST_ROWS = 2_000
"""Held-out rows that are looked at; more would only make the share more exact."""
ENOUGH = 0.9
"""A note is added if a smaller share of the held-out rows can be scored."""
PATTERNS = (r"####\s*(\S+)", r"\\boxed\{([^{}]*)\}", r"(?i)answer:?\s*(\S+)", r"(-?\d[\d.,]*)")
"""Patterns of common answer formats, tried in this order for a suggestion."""
WHOLE_ANSWER = r"(?s)\s*(.+)"
"""A pattern that matches every answer, suggested if no common format does."""
_STEPS = ("train.warmup", "train.max_steps", "train.epochs", "train.batch_size")


class Tokenizer(Protocol):
    """The part of a tokenizer that the checks use."""

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]: ...
    def decode(self, ids: list[int]) -> str: ...


def check_recipe(
    recipe: Recipe, rows: Sequence[dict[str, Any]], train_rows: int, tokenizer: Tokenizer
) -> list[str]:
    """Return notes about a recipe whose trials would learn or score less than they seem to.

    `rows` are the held-out rows with `prompt_ids` and `answer`; `train_rows` is the number of
    training rows, 0 where adapters are only scored. Raises RecipeError if no row can be scored, or
    if no step changes the adapter.
    """
    steps = step_notes(recipe, train_rows) if train_rows else []
    return [*steps, *scoring_notes(recipe, rows, tokenizer)]


# ── learning ─────────────────────────────────────────────────────────────────────────────────


def step_notes(recipe: Recipe, train_rows: int) -> list[str]:
    """Return notes about warm-ups that never reach the learning rate, of the recipe and its sweep.

    Raises RecipeError if every step of a trial runs at learning rate 0.
    """
    notes = []
    for words, one in _variants(recipe, _STEPS):
        steps, warmup = total_steps(one, train_rows), warmup_steps(one, train_rows)
        if warmup < steps:
            continue
        if steps == 1:
            raise RecipeError(
                f"{words}the only step of a trial is its warm-up, at learning rate 0: it would "
                "learn nothing",
                hint="set train.warmup: 0, or train more than one step",
            )
        most = (steps - 1) / warmup
        notes.append(
            f"{words}the warm-up takes all {steps} steps, so the learning rate never passes "
            f"{most:.0%} of train.learning_rate; lower train.warmup"
        )
    return notes


def total_steps(recipe: Recipe, train_rows: int) -> int:
    """Return the optimizer steps of a trial, as transformers' Trainer counts them."""
    train = recipe.train
    an_epoch = max(1, math.ceil(train_rows / train.rows_per_step))
    return train.max_steps or max(1, math.ceil(train.epochs * an_epoch))


def warmup_steps(recipe: Recipe, train_rows: int) -> int:
    """Return the steps of the warm-up. The first of them has learning rate 0."""
    return math.ceil(total_steps(recipe, train_rows) * recipe.train.warmup)


def _variants(recipe: Recipe, keys: Sequence[str]) -> Iterator[tuple[str, Recipe]]:
    """Generate the recipe and, for each swept key among `keys`, one variant per value.

    Each variant differs in one key only, so a sweep of any size costs a few dozen checks. The ends
    of a range stand for it. A key's own value is left out where the sweep replaces it.
    """
    swept = recipe.sweep.parameters if recipe.sweep is not None else {}
    if not any(key in swept for key in keys):
        yield "", recipe
    for key in keys:
        parameter = swept.get(key)
        if parameter is None:
            continue
        values = values_of(parameter)
        if values is None:
            whole = getattr(parameter, "integer", False)
            ends = (parameter.min, parameter.max)  # type: ignore[union-attr]
            values = [int(end) if whole else end for end in ends]
        for value in islice(values, 64):
            yield f"{key}: {value}: ", apply_settings(recipe, {key: value})


# ── scoring ──────────────────────────────────────────────────────────────────────────────────


def scoring_notes(
    recipe: Recipe, rows: Sequence[dict[str, Any]], tokenizer: Tokenizer
) -> list[str]:
    """Return notes about held-out rows whose answers cannot be generated or compared.

    Raises RecipeError if none can: no question, no answer that the pattern matches, or too few
    tokens for any of them. Without a scorer of answers there is nothing to check;
    `scorers.scorer_checks` tries the scorers themselves.
    """
    pattern = recipe.evaluate.answer_pattern
    if not recipe.evaluate.scorers:
        return []
    setting = "evaluate.scorer" if pattern is None else "evaluate.answer_pattern"
    asked = [str(row["answer"]) for row in rows if row["prompt_ids"]]
    if not asked:
        raise RecipeError(
            f"{setting}: no held-out row has a question that fits into "
            f"{recipe.data.max_tokens} tokens, so no answer can be scored",
            hint=f"take {setting} out to rank by loss; or use rows with a prompt and "
            "a completion, and a data.max_tokens above the length of the prompts",
        )
    return [
        *(_pattern_notes(pattern, asked) if pattern is not None else ()),
        *_length_notes(pattern, asked, recipe.evaluate.max_new_tokens, tokenizer),
    ]


def _pattern_notes(pattern: str, answers: list[str]) -> list[str]:
    from workbench.training.scoring.scorers.extraction import extract_answer, pattern_problem

    if problem := pattern_problem(pattern, answers):
        raise RecipeError(
            f"evaluate.answer_pattern {problem}",
            hint=f"set evaluate.answer_pattern: '{suggested_pattern(answers)}', or write it "
            "without a repetition inside a repetition, as in (a+)+ or (a|aa)+",
        )
    found = [extract_answer(pattern, answer) for answer in answers]
    matched = [one for one in found if one is not None]
    other = f"set evaluate.answer_pattern: '{suggested_pattern(answers)}', or take it out"
    unmatched = answers[found.index(None)] if len(matched) < len(found) else ""
    if not matched:
        raise RecipeError(
            f"evaluate.answer_pattern matches none of {len(answers)} expected answers (the first: "
            f"'{_end(unmatched)}'), so no answer can be scored",
            hint=other,
        )
    if not any(matched):
        raise RecipeError(
            f"evaluate.answer_pattern finds only empty text in {len(matched)} expected answers, so "
            "every answer without text would count as right",
            hint=other,
        )
    notes = []
    if len(matched) < ENOUGH * len(found):
        notes.append(
            f"evaluate.answer_pattern matches {len(matched)} of {len(found)} expected answers; the "
            f"others are not scored (the first: '{_end(unmatched)}'); {other}"
        )
    if len(matched) > 1 and len(set(matched)) == 1 and len(set(answers)) > 1:
        notes.append(
            f"evaluate.answer_pattern finds the same answer in all expected answers, "
            f"'{safe_line(matched[0], 40)}'; put the part to compare into a group, or {other}"
        )
    return notes


def suggested_pattern(answers: list[str]) -> str:
    """Return the first pattern of a common format that finds text in enough of the answers."""
    from workbench.training.scoring.scorers.extraction import extract_answer

    for pattern in PATTERNS:
        found = [extract_answer(pattern, answer) for answer in answers]
        different = len(set(found)) > 1 or len(set(answers)) == 1
        if different and sum(bool(one) for one in found) >= ENOUGH * len(answers):
            return pattern
    return WHOLE_ANSWER


def _length_notes(
    pattern: str | None, answers: list[str], most: int, tokenizer: Tokenizer
) -> list[str]:
    """Check that expected answers show what is compared within max_new_tokens tokens.

    With a pattern that is what it finds, without one the whole answer.
    """
    from workbench.training.scoring.scorers.extraction import extract_answer

    lengths: Counter[int] = Counter()
    scorable = reached = 0
    for answer in answers:
        wanted = extract_answer(pattern, answer) if pattern is not None else answer
        if wanted is None:
            continue
        scorable += 1
        ids = tokenizer.encode(answer, add_special_tokens=False)
        lengths[len(ids)] += 1
        # Decoding costs more than encoding, and most answers are short enough.
        if len(ids) <= most or (
            pattern is not None and extract_answer(pattern, tokenizer.decode(ids[:most])) == wanted
        ):
            reached += 1
    if not scorable or reached >= ENOUGH * scorable:
        return []
    longest = max(lengths)
    need = sorted(lengths.elements())[min(scorable - 1, math.ceil(0.95 * scorable) - 1)]
    words = (
        f"evaluate.max_new_tokens: {most} tokens are enough for {reached} of {scorable} expected "
        f"answers; 95 % of them have at most {need} tokens, the longest {longest}"
    )
    hint = f"set evaluate.max_new_tokens: {-(-longest // 16) * 16}"
    if not reached:
        raise RecipeError(words, hint=hint)
    return [f"{words}; {hint}"]


def _end(answer: str) -> str:
    """Return the end of an answer, where most formats have the part to compare."""
    text = safe_line(answer, 1_000)
    return text if len(text) <= 60 else f"…{text[-59:]}"


# ── the model's positions ────────────────────────────────────────────────────────────────────


def check_positions(recipe: Recipe, config: dict[str, Any], lengths: dict[str, int]) -> list[str]:
    """Return notes about rows and answers near the model's last position.

    `lengths` has max_length and eval_max_length, the longest rows after cutting, uncut_max_length,
    and prompt_length, the longest held-out prompt; all in tokens. Raises DataError if a row has
    more tokens than the model reads.
    """
    positions = model_positions(config)
    if positions is None:
        return []
    longest = max(lengths["max_length"], lengths["eval_max_length"])
    if longest > positions:
        raise DataError(
            f"the longest row has {longest} tokens, the model reads {positions}",
            hint=f"lower data.max_tokens to {positions} or less",
        )
    notes = []
    if recipe.data.max_tokens > positions or (
        lengths["uncut_max_length"] > positions and lengths["uncut_max_length"] > longest
    ):
        notes.append(
            f"the model reads at most {positions} tokens, and data.max_tokens cannot be larger; "
            f"longer rows have to be shortened or split"
        )
    answer, prompt = recipe.evaluate.max_new_tokens, lengths["prompt_length"]
    if recipe.evaluate.scorers and prompt + answer > positions:
        room = positions - prompt
        notes.append(
            f"a held-out prompt of {prompt} tokens with evaluate.max_new_tokens: {answer} passes "
            f"the {positions} tokens that the model reads; set evaluate.max_new_tokens: {room}"
            if room > 0
            else f"a held-out prompt of {prompt} tokens leaves no room for an answer among the "
            f"{positions} tokens that the model reads; shorten the prompts"
        )
    return notes


def check_swept_targets(recipe: Recipe, check: Callable[[Recipe], object]) -> None:
    """Call `check` with the recipe of each swept value of lora.targets.

    `check` raises for a value that the model cannot have; the error then names the value.
    """
    if recipe.sweep is None or "lora.targets" not in recipe.sweep.parameters:
        return
    for words, one in _variants(recipe, ("lora.targets",)):
        try:
            check(one)
        except RecipeError as wrong:
            raise RecipeError(f"{words}{wrong.what}", hint=wrong.hint) from wrong


def longest_prompt(rows: Sequence[dict[str, Any]]) -> int:
    """Return the tokens of the longest held-out prompt, 0 without any."""
    return max((len(row["prompt_ids"]) for row in rows), default=0)
