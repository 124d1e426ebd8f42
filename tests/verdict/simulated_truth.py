"""Simulated boards whose truth is known, to count how often the verdict is right.

`python -m tests.verdict.simulated_truth` prints the table of `docs/verdict.md` (some minutes).
"""

# K results, N rows, R repetitions.

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from functools import cache

import numpy as np
from scipy.special import gammaln, ndtri

from workbench.verdict.comparisons import better_pairs, tied_for_first
from workbench.verdict.finals import compare_finalists
from workbench.verdict.intervals import bootstrap_t, wilson_interval
from workbench.verdict.paired import answer_p_values, compare_pairs, tango_interval
from workbench.verdict.rows import RowMatrix, ScoreKind
from workbench.verdict.types import Floats, RowResults

Random = np.random.Generator
GRADED = ScoreKind.GRADED


# ── what the rows are like ────────────────────────────────────────────────────────────────────


def losses_per_token(random: Random, shape: tuple[int, ...]) -> tuple[Floats, Floats]:
    """Return rows' losses per target token and their target tokens.

    Both are lognormal, with sigma 1.0 (one row in 40 has over 7 times the median) and 0.7; longer
    rows have lower losses (correlation of the logarithms -0.3).
    """
    length, other = random.normal(size=shape), random.normal(size=shape)
    tokens = np.ceil(np.exp(4.0 + 0.7 * length))
    return np.exp(-0.3 * length + np.sqrt(1 - 0.3**2) * other), tokens


@cache
def true_loss() -> float:
    """Return the loss per target token of infinitely many rows: the integral over their lengths."""
    length = np.linspace(-8.0, 8.0, 400_001)
    weighted = np.exp(-(length**2) / 2) * np.ceil(np.exp(4.0 + 0.7 * length))
    other = np.exp((1 - 0.3**2) / 2)  # the mean of its lognormal part
    return float((np.exp(-0.3 * length) * weighted).sum() * other / weighted.sum())


def noise(random: Random, shape: tuple[int, ...]) -> Floats:
    """Return factors of mean 1 by which an adapter's row losses differ from another's: 10 %."""
    return np.asarray(np.exp(0.1 * random.normal(size=shape) - 0.005))


def loss_matrix(random: Random, rows: int, factors: Floats) -> RowMatrix:
    """Return adapters whose true losses are `factors` times the true loss."""
    losses, tokens = losses_per_token(random, (rows,))
    own = noise(random, (len(factors), rows)) * factors[:, None]
    return RowMatrix(values_KN=own * losses * tokens, weights_N=tokens)


def answer_matrix(random: Random, rows: int, shares: Floats) -> RowMatrix:
    """Return adapters that are right with these probabilities, alike on easy and on hard rows."""
    easy = random.normal(size=rows)
    # Two adapters with share 0.5 disagree in about 30 % of the rows.
    own = np.sqrt(0.65) * easy + np.sqrt(0.35) * random.normal(size=(len(shares), rows))
    right = (own < ndtri(shares)[:, None]).astype(float)
    return RowMatrix(values_KN=right, weights_N=np.ones(rows))


# ── coverage of intervals ─────────────────────────────────────────────────────────────────────


def single_loss_coverage(rows: int, repetitions: int) -> float:
    """Return how often the interval of a heavy-tailed loss holds the true loss."""
    losses, tokens = losses_per_token(np.random.default_rng([1, rows]), (repetitions, rows))
    lows, highs = bootstrap_t(losses * tokens, tokens)
    return float(((lows <= true_loss()) & (true_loss() <= highs)).mean())


def paired_loss_coverage(rows: int, repetitions: int) -> tuple[float, float]:
    """Return how often the interval of a loss difference holds the truth, and how often p < 0.05
    where there is no difference."""
    random = np.random.default_rng([2, rows])
    covered = rejected = 0
    for _ in range(repetitions):
        matrix = loss_matrix(random, rows, np.array([1.0, 0.97, 1.0]))
        table = compare_pairs(matrix, ScoreKind.RATIO)
        truth = 0.03 * true_loss()
        covered += bool(table.lows_KK[0, 1] <= truth <= table.highs_KK[0, 1])
        rejected += bool(table.p_KK[0, 2] < 0.05)
    return covered / repetitions, rejected / repetitions


def paired_answer_coverage(
    rows: int, gained: float, lost: float, repetitions: int
) -> tuple[float, float]:
    """Return how often Tango's interval holds the true difference, and how often p < 0.05.

    `gained` and `lost` are the true shares of rows that only the one or only the other answers.
    """
    random = np.random.default_rng([3, rows])
    counts = random.multinomial(rows, [gained, lost, 1 - gained - lost], size=repetitions)
    one, other = counts[:, 0].astype(float), counts[:, 1].astype(float)
    lows, highs = tango_interval(one, other, rows)
    truth = gained - lost
    return float(((lows <= truth) & (truth <= highs)).mean()), float(
        (answer_p_values(one, other, rows) < 0.05).mean()
    )


def answer_claim_levels(rows: int, discordances: Floats, level: float = 0.05) -> Floats:
    """Return how often two equal adapters are told apart by p < `level` and Tango's interval.

    Exact: all counts of disagreeing rows are weighted by their probability. `discordances` are
    shares of rows on which exactly one of the two is right, above 0 and below 1.
    """
    one, other = (counts.ravel() for counts in np.indices((rows + 1, rows + 1)).astype(float))
    possible = one + other <= rows
    one, other = one[possible], other[possible]
    same = rows - one - other
    ways = gammaln(rows + 1) - gammaln(one + 1) - gammaln(other + 1) - gammaln(same + 1)
    lows, highs = tango_interval(one, other, rows)
    claimed = (answer_p_values(one, other, rows) < level) & ((lows > 0) | (highs < 0))
    ways, apart, same = ways[claimed], (one + other)[claimed], same[claimed]
    shares = discordances[:, None]
    logs = ways + apart * np.log(shares / 2) + same * np.log1p(-shares)
    return np.asarray(np.exp(logs).sum(axis=1))


def paired_graded_coverage(rows: int, repetitions: int) -> tuple[float, float]:
    """Return how often the interval of a difference of mean F1 holds the truth, 0.1, and how often
    p < 0.05 where there is no difference.

    Half of the rows have an F1 of 0 or 1 for both adapters, as extracted answers do.
    """
    random = np.random.default_rng([7, rows])
    covered = rejected = 0
    for _ in range(repetitions):
        easy = random.random(rows)
        values_KN = np.stack([random.beta(1 + easy, 2 - easy), random.beta(1 + easy, 2 - easy)])
        values_KN = np.where(random.random(rows) < 0.5, np.round(easy), values_KN)
        values_KN[0] += 0.1
        table = compare_pairs(RowMatrix(values_KN=values_KN, weights_N=np.ones(rows)), GRADED)
        covered += bool(table.lows_KK[0, 1] <= 0.1 <= table.highs_KK[0, 1])
        values_KN[0] -= 0.1
        table = compare_pairs(RowMatrix(values_KN=values_KN, weights_N=np.ones(rows)), GRADED)
        rejected += bool(table.p_KK[0, 1] < 0.05)
    return covered / repetitions, rejected / repetitions


def wilson_coverage(rows: int) -> tuple[float, float]:
    """Return the exact coverage of Wilson's interval, averaged over shares, and its lowest."""
    right = np.arange(rows + 1)
    ends = np.array([wilson_interval(float(count), rows) for count in right])
    shares = (np.arange(2_000) + 0.5) / 2_000
    ways = gammaln(rows + 1) - gammaln(right + 1) - gammaln(rows - right + 1)
    logs = right * np.log(shares)[:, None] + (rows - right) * np.log1p(-shares)[:, None]
    holds = (ends[:, 0] <= shares[:, None]) & (shares[:, None] <= ends[:, 1])
    coverage = (np.exp(ways + logs) * holds).sum(axis=1)
    return float(coverage.mean()), float(coverage.min())


# ── claims about boards ───────────────────────────────────────────────────────────────────────


def board_errors(
    draw: Callable[[Random, int, Floats], RowMatrix],
    kind: ScoreKind,
    truth: Floats,
    rows: int,
    repetitions: int,
    *,
    higher_is_better: bool,
) -> tuple[float, float, float]:
    """Return the shares of boards with a false "better" and with a true best in the tie group,
    and the mean share of adapters in the group."""
    random = np.random.default_rng([4, rows, len(truth)])
    sign = 1 if higher_is_better else -1
    really_KK = sign * truth[:, None] > sign * truth[None, :]
    best = int((sign * truth).argmax())
    false, kept, size = 0, 0, 0.0
    for _ in range(repetitions):
        table = compare_pairs(draw(random, rows, truth), kind)
        tied_K = tied_for_first(table, higher_is_better=higher_is_better)
        better_KK = better_pairs(table, tied_K, higher_is_better=higher_is_better)
        false += bool((better_KK & ~really_KK).any())
        kept += bool(tied_K[best])
        size += float(tied_K.mean())
    return false / repetitions, kept / repetitions, size / repetitions


# ── finals ────────────────────────────────────────────────────────────────────────────────────


def finals_coverage(
    finalists: int, seeds: int, rows: int, seed_share: float, repetitions: int
) -> float:
    """Return how often the interval of a difference between two finalists holds the truth, 0.

    `seed_share` is the standard deviation of a seed's loss, as a share of the loss; each seed also
    changes every row's loss by 10 % on its own, and each finalist by another 10 %.
    """
    random = np.random.default_rng([5, finalists, seeds, rows, int(seed_share * 1e4)])
    covered = 0
    for _ in range(repetitions):
        losses, tokens = losses_per_token(random, (rows,))
        results = {}
        for finalist in range(finalists):
            own = losses * tokens * noise(random, (rows,))
            results[finalist] = [
                RowResults(
                    trial=100 * finalist + seed,
                    evaluation="rows",
                    tokens="tokens",
                    step=1,
                    targets=tokens.astype(np.int64),
                    sums={
                        "loss": own * noise(random, (rows,)) * (1 + seed_share * random.normal())
                    },
                )
                for seed in range(seeds)
            ]
        table = compare_finalists(results, "loss")
        covered += bool(table.lows_KK[0, 1] <= 0 <= table.highs_KK[0, 1])
    return covered / repetitions


# ── the table ─────────────────────────────────────────────────────────────────────────────────

EQUAL = (2, 6, 24, 100)
"""Sizes of boards of equal adapters."""
SHARES = np.r_[np.linspace(0.01, 0.99, 99), 0.999, 0.99999]
"""Shares of rows on which two equal adapters disagree, for exact levels."""


def equal_answers(adapters: int, rows: int, repetitions: int) -> tuple[float, float, float]:
    """Return the errors of boards whose adapters all answer half of the rows rightly."""
    shares = np.full(adapters, 0.5)
    return board_errors(
        answer_matrix, ScoreKind.ANSWERS, shares, rows, repetitions, higher_is_better=True
    )


def equal_losses(adapters: int, rows: int, repetitions: int) -> tuple[float, float, float]:
    """Return the errors of boards whose adapters all have the same true loss."""
    factors = np.ones(adapters)
    return board_errors(
        loss_matrix, ScoreKind.RATIO, factors, rows, repetitions, higher_is_better=False
    )


def close_losses(adapters: int, rows: int, repetitions: int) -> tuple[float, float, float]:
    """Return the errors of boards with losses from the best to 3 % above it."""
    factors = np.linspace(1.0, 1.03, adapters)
    return board_errors(
        loss_matrix, ScoreKind.RATIO, factors, rows, repetitions, higher_is_better=False
    )


def table_lines(repetitions: int) -> Iterator[str]:
    """Yield the lines of the table, as soon as each is known."""
    for rows in (16, 64, 256):
        covered = single_loss_coverage(rows, repetitions)
        yield _line(f"one heavy-tailed loss, {rows} rows", "interval covers", covered)
    for rows in (16, 64, 256):
        ways = "interval covers on average; at least (both exact)"
        yield _line(f"one share of right answers, {rows} rows", ways, *wilson_coverage(rows))
    for rows in (64, 256):
        found = paired_loss_coverage(rows, repetitions)
        yield _line(f"paired losses, {rows} rows", "interval covers; false p < 0.05", *found)
    for rows in (64, 256):
        found = paired_answer_coverage(rows, 0.15, 0.15, repetitions)
        yield _line(f"paired answers, {rows} rows", "interval covers; false p < 0.05", *found)
    for rows in (64, 256):
        found = paired_graded_coverage(rows, repetitions)
        yield _line(f"paired F1, {rows} rows", "interval covers; false p < 0.05", *found)
    for seed_share in (0.0, 0.01, 0.05):
        covered = finals_coverage(3, 3, 64, seed_share, repetitions)
        name = f"finals of 3, 3 seeds {seed_share:.0%} apart, 64 rows"
        yield _line(name, "interval of a difference covers", covered)
    for rows in (16, 64, 256):
        level = float(answer_claim_levels(rows, SHARES).max())
        yield _line(
            f"2 equal adapters, answers, {rows} rows", "false “better”, at most (exact)", level
        )
    ways = "false “better”; best in the tie group; size of the group"
    for name, errors in (("answers", equal_answers), ("losses", equal_losses)):
        for adapters in EQUAL:
            found_errors = errors(adapters, 64, repetitions)
            yield _line(f"{adapters} equal adapters, {name}, 64 rows", ways, *found_errors)
    for adapters in (6, 24):
        found_errors = close_losses(adapters, 200, repetitions)
        yield _line(f"{adapters} adapters, losses up to 3 % apart, 200 rows", ways, *found_errors)


def _line(case: str, quantities: str, *shares: float) -> str:
    numbers = "; ".join(f"{100 * share:.1f} %" for share in shares)
    return f"| {case} | {quantities} | {numbers} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=2_000)
    repetitions = parser.parse_args().repetitions
    started = time.perf_counter()
    print(f"| {repetitions:,} simulations each | quantity | found |\n|---|---|---|")
    for line in table_lines(repetitions):
        print(line, flush=True)
    print(f"\n{time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
