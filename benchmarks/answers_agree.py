"""Counts where the decode path's greedy answers differ from transformers' own, and says why.

    workbench train demo -s sweep=null -s lr=1e-2 -o FOLDER
    python benchmarks/answers_agree.py FOLDER/adapter

The demo's 96 held-out rows are answered by transformers a row at a time, by transformers in padded
batches of 32, and by the decode path in 32 lanes, in each of `--precisions`. Against the first it
prints: the scores by the answer pattern with their paired difference and its 95 % interval, the
answers that differ, the tokens chosen otherwise after equal ones (later tokens of an answer follow
from the first), and how far apart the two tokens were there: the difference of their logits in
units of the precision's rounding at their size. fp32 takes a minute on two CPU cores; 16 bits are
slow without a GPU.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from score_noise import demo_base

from workbench.adapters.adapter_folder import read_adapter
from workbench.training import libraries
from workbench.training.control import Control
from workbench.training.dataset.prepared import load_prepared, prepare_data
from workbench.training.model.base import DTYPES, ResidentBase
from workbench.training.model.saved_adapter import load_saved
from workbench.training.model.tokenizer import load_tokenizer
from workbench.training.scoring.answers import end_ids
from workbench.training.scoring.generation import GenerationPlan, cut_at_end, generate_rows
from workbench.training.scoring.held_out_loss import scoring_mode
from workbench.training.scoring.scorers.extraction import compared_part
from workbench.verdict.paired import compare_pairs
from workbench.verdict.rows import RowMatrix, ScoreKind

AT_ONCE = 32
Answers = list[list[int]]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("adapter", type=Path, help="an adapter folder of the demo model")
    on_card = torch.cuda.is_available()
    known = ("fp32", "bf16", "fp16")
    usual = known if on_card else known[:1]
    parser.add_argument("--precisions", nargs="*", choices=known, default=usual)
    parser.add_argument("--rows", type=int, help="of the held-out rows the first so many")
    options = parser.parse_args()
    adapter = read_adapter(options.adapter)
    libraries.import_libraries(threads=2)
    recipe, spec = demo_base("cuda" if on_card else "cpu")
    tokenizer = load_tokenizer(spec.path, None)
    with tempfile.TemporaryDirectory(prefix="wb-agree-") as folder:
        rows = load_prepared(prepare_data(recipe, tokenizer, Path(folder), lambda *_: None))[1]
        prompts, wanted = (list(rows[name])[: options.rows] for name in ("prompt_ids", "answer"))
    pattern = recipe.evaluate.answer_pattern
    for precision in options.precisions:
        with ResidentBase().acquire(replace(spec, precision=precision)) as base:
            model: Any = load_saved(base, adapter)
            plan = GenerationPlan(
                rows_at_once=AT_ONCE,
                most=recipe.evaluate.max_new_tokens,
                ends=end_ids(model, tokenizer),
                pad_id=tokenizer.pad_token_id,
                precision=precision,
            )
            alone = by_transformers(model, prompts, plan, 1)
            others = {
                "transformers, 32 rows at once": by_transformers(model, prompts, plan, AT_ONCE),
                "the decode path, 32 lanes": by_lanes(model, prompts, plan),
            }
            for name, made in others.items():
                right = [
                    [
                        compared_part(pattern, tokenizer.decode(ids, skip_special_tokens=True))
                        == compared_part(pattern, text)
                        for ids, text in zip(answers, wanted, strict=True)
                    ]
                    for answers in (alone, made)
                ]
                print(f"{precision}, {name}: {score_words(right)}")
                print(f"  {difference_words(model, prompts, alone, made, precision)}", flush=True)


def by_lanes(model: Any, prompts: Sequence[list[int]], plan: GenerationPlan) -> Answers:
    """Return the decode path's answers. Raises RuntimeError where it refuses the model."""

    def refuse(reason: str) -> None:
        raise RuntimeError(reason)

    made = generate_rows(model, dict(enumerate(prompts)), plan, Control(), fell_back=refuse)
    return [made[row].ids for row in range(len(prompts))]


def by_transformers(
    model: Any, prompts: Sequence[list[int]], plan: GenerationPlan, batch: int
) -> Answers:
    """Return transformers' answers, `batch` rows at a time, padded on the left."""
    made: Answers = []
    with scoring_mode(model, plan.precision) as device:
        for at in range(0, len(prompts), batch):
            some = prompts[at : at + batch]
            width = max(map(len, some))
            ids = [[plan.pad_id] * (width - len(one)) + one for one in some]
            mask = [[0] * (width - len(one)) + [1] * len(one) for one in some]
            out = model.generate(
                input_ids=torch.tensor(ids, device=device),
                attention_mask=torch.tensor(mask, device=device),
                max_new_tokens=plan.most,
                do_sample=False,
                pad_token_id=plan.pad_id,
                eos_token_id=list(plan.ends),
            )
            made += [cut_at_end(new, plan.ends).ids for new in out[:, width:].tolist()]
    return made


def score_words(right_KN: list[list[bool]]) -> str:
    """Return both scores, and the paired difference of the second from the first."""
    values_KN = np.asarray(right_KN, dtype=np.float64)
    matrix = RowMatrix(values_KN=values_KN, weights_N=np.ones(values_KN.shape[1]))
    found = compare_pairs(matrix, ScoreKind.ANSWERS).difference(1, 0)
    one, other = matrix.scores_K
    return (
        f"exact match {other:.4f} against {one:.4f}, difference {found.difference:+.4f} "
        f"[{found.low:+.4f}, {found.high:+.4f}]"
    )


def difference_words(
    model: Any, prompts: Sequence[list[int]], one: Answers, other: Answers, precision: str
) -> str:
    """Return how many answers and tokens differ, and how close the tokens' logits were."""
    alike, gaps = 0, []
    for prompt, a, b in zip(prompts, one, other, strict=True):
        same = next((n for n, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), None)
        alike += min(len(a), len(b)) if same is None else same
        if same is not None:
            gaps.append(_gap(model, prompt + a[:same], (a[same], b[same]), precision))
    words = (
        f"{len(gaps)} of {len(one)} answers differ, at {len(gaps)} of {alike + len(gaps)} tokens"
    )
    if not gaps:
        return words
    return f"{words}; logits {statistics.median(gaps):.1f} roundings apart, {max(gaps):.1f} at most"


def _gap(model: Any, ids: list[int], tokens: tuple[int, int], precision: str) -> float:
    """Return the difference of two tokens' logits in units of the precision's rounding there."""
    with scoring_mode(model, precision) as device:
        logits = model(input_ids=torch.tensor([ids], device=device)).logits[0, -1].double()
    pair = logits[list(tokens)]
    rounding = float(pair.abs().max()) * torch.finfo(DTYPES[precision]).eps
    return float((pair[0] - pair[1]).abs()) / rounding


if __name__ == "__main__":
    main()
