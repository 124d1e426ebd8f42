"""The typed recipe: every setting with its default and its meaning.

Defaults follow the guide for QLoRA of Llama-3-8B on a 16 or 24 GB card. Where a default differs
from the guide, the string below the field says why. The strings are the descriptions in the JSON
schema, too.
"""

from __future__ import annotations

import math
import re
import warnings
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    field_validator,
    model_validator,
)

from workbench.recipe.scorer_names import file_stem, name_problem
from workbench.text import safe_line
from workbench.text.redact import has_secret
from workbench.trial import up_is_better

Precision = Literal["auto", "bf16", "fp16", "fp32"]
Attention = Literal["auto", "flash_attention_2", "sdpa", "eager"]
Shape = Literal["auto", "text", "prompt-completion", "alpaca", "messages", "sharegpt"]
LossOn = Literal["auto", "all", "completion", "assistant"]
Optimizer = Literal[
    "auto", "adamw_torch", "adamw_8bit", "paged_adamw_8bit", "paged_adamw_32bit", "sgd"
]
OBJECTIVES = ("auto", "loss", "perplexity", "token_accuracy", "eval_loss")
"""Objectives of a sweep besides the scores of `evaluate.scorers`."""
Positive = Annotated[int, Field(gt=0, le=10**9)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
"""The range that numpy.random.seed accepts, which transformers' Trainer calls with this seed."""


def _holds_secret(value: Any) -> bool:
    if isinstance(value, str):
        return has_secret(value)
    if isinstance(value, list):
        return any(map(_holds_secret, value))
    if isinstance(value, dict):
        return any(_holds_secret(key) or _holds_secret(one) for key, one in value.items())
    return False


class Section(BaseModel):
    """A strict and frozen base of all sections: unknown keys and silent conversions are errors."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        frozen=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
    )

    @field_validator("*")
    @classmethod
    def _no_secrets(cls, value: Any) -> Any:
        """Refuse text that looks like a secret.

        A recipe is copied to the database and beside every adapter, and adapters are published.
        """
        if _holds_secret(value):
            raise ValueError(
                "looks like a secret (a token, key or password), and a recipe is copied to every "
                "adapter; take it out, and log in instead: hf auth login, or HF_TOKEN"
            )
        return value


class Model(Section):
    """The frozen base model, and how it is loaded."""

    name: str = Field(min_length=1)
    """A hub id, a folder, or `workbench:demo/model`, the model that ships with the workbench."""
    revision: str | None = None
    """Hub branch, tag or commit; resolved to a commit when the experiment is prepared."""
    quantization: Literal["nf4", "none"] = "nf4"
    """`nf4` keeps the frozen base in 4-bit NormalFloat; `none` keeps it in the compute
    precision."""
    double_quantization: bool = True
    """Quantise the quantisation scales too: 0.516 bytes per parameter instead of 0.563."""
    precision: Precision = "auto"
    """Compute dtype. `auto`: bf16 from compute capability 8.0, fp16 below, fp32 on a CPU card."""
    attention: Attention = "auto"
    """`auto` selects the fastest kernel that the card supports; the plan says which and why."""


class MixedSource(Section):
    """One of several sources of training rows, and how many of its rows an epoch has."""

    path: str = Field(min_length=1)
    """A file, a folder or a hub id, as `data.train` takes it."""
    weight: Annotated[float, Field(gt=0, le=1000)] | None = None
    """How often an epoch has each row: 2 for twice; 0.5 for half of the rows, 1.5 for each row and
    half of them once more. Left out: once."""
    rows: Positive | None = None
    """Number of rows of this source in an epoch, in place of a weight: drawn from its rows, or each
    repeated until there are so many."""
    split: str = "train"
    """The split of a hub data set."""
    revision: str | None = None
    """Hub revision of the data set."""
    config: str | None = None
    """The configuration of a hub data set that has several."""
    shape: Shape | None = None
    """The layout of its rows; left out: `data.shape`."""
    columns: dict[str, str] | None = None
    """Its columns to the shape's names; left out: `data.columns`."""
    system: str | None = None
    """A system message added to its rows that have none; left out: `data.system`."""

    @model_validator(mode="before")
    @classmethod
    def _named(cls, data: Any) -> Any:
        return {"path": data} if isinstance(data, str) else data

    @model_validator(mode="after")
    def _counted_once(self) -> Self:
        if self.weight is not None and self.rows is not None:
            raise ValueError("has a weight and a number of rows; give one of them")
        return self


class Data(Section):
    """The training rows, the held-out rows, and how both become tokens."""

    train: Annotated[str, Field(min_length=1)] | Annotated[list[MixedSource], Field(min_length=1)]
    """A local jsonl, json, csv, parquet or txt file (relative to the recipe), which may be packed
    (`rows.jsonl.gz`, `.zst`); a folder of such files; a hub id; or
    `workbench:demo/data/train.jsonl`. Or a list of such sources, each with a weight or a number of
    rows: `[{path: a.jsonl, weight: 2}, b.jsonl]`."""
    eval: str | None = None
    """Held-out rows, named like `train`. Left out: `eval_rows` rows are split off `train`."""
    split: str = "train"
    """The split of a hub data set to train on."""
    eval_split: str | None = None
    """The split of a hub data set to hold out."""
    revision: str | None = None
    """Hub revision of the data set."""
    config: str | None = None
    """The configuration of a hub data set that has several, e.g. `main` of `openai/gsm8k`."""
    eval_rows: Positive = 64
    """Number of held-out rows: split off `train`, or the first rows of `eval`."""
    test: str | None = None
    """A second set of held-out rows, named like `train`: scored once at the end, for the base and
    the finalists, and never used to choose."""
    test_split: str | None = None
    """The split of a hub data set to test on; of `train`'s data set where `test` is left out."""
    test_rows: Positive | None = None
    """Number of test rows: the first rows of `test` or `test_split`, else split off `train` beside
    the held-out rows. Left out: all rows of `test`; without `test`, no test rows."""
    max_rows: Positive | None = None
    """Use at most this many training rows, from the first on."""
    shape: Shape = "auto"
    """The layout of a row; `auto` recognises it from the columns."""
    columns: dict[str, str] = Field(default_factory=dict)
    """Columns of your rows to the shape's names, e.g. `{question: prompt, answer: completion}`."""
    system: str | None = None
    """A system message added to rows that have none."""
    loss_on: LossOn = "auto"
    """The tokens that carry loss. `auto`: assistant turns of chats, completions of
    prompt-completion and alpaca rows, all tokens of plain text."""
    reasoning: Literal["keep", "drop", "mask"] = "keep"
    """The reasoning of answers: a turn's `reasoning_content`, or a `<think>` block before its text.
    `keep`: learned where the chat template shows it, which may be the last answer alone. `mask`:
    shown, but without loss. `drop`: taken out of the rows; a template that knows `enable_thinking`
    is told that the model does not think."""
    chat_template: Literal["auto", "never"] = "auto"
    """`auto` renders prompt-completion and alpaca rows through the tokenizer's chat template if it
    has one; `never` concatenates prompt and completion unchanged."""
    max_tokens: Annotated[int, Field(ge=8, le=2**20)] = 512
    """Longer rows are truncated to this many tokens."""
    packing: bool = False
    """Fill bins of `max_tokens` with several rows, which stay apart: `train.batch_size` then counts
    bins, so that a step has about as many tokens each time. It changes the batch, so it is off."""
    group_by_length: bool = False
    """Form batches of rows of similar length. This saves padding where a model trains padded; the
    fast step pads nothing, and batches of similar rows make noisier steps
    (docs/notes/2026-11-25-grouped-rows.md)."""

    @property
    def train_names(self) -> list[str]:
        """Names of the sources of training rows, in their order."""
        return [self.train] if isinstance(self.train, str) else [one.path for one in self.train]

    @property
    def drops_reasoning(self) -> bool:
        """True where chats are rendered by a template that is told not to think."""
        return self.reasoning == "drop" and self.chat_template != "never"

    @property
    def parts(self) -> list[Data]:
        """The settings of each source of training rows, as if it were the only one."""
        if isinstance(self.train, str):
            return [self]
        return [
            self.model_copy(
                update={
                    "train": one.path,
                    "split": one.split,
                    "revision": one.revision,
                    "config": one.config,
                    "shape": one.shape or self.shape,
                    "columns": self.columns if one.columns is None else one.columns,
                    "system": self.system if one.system is None else one.system,
                }
            )
            for one in self.train
        ]

    @model_validator(mode="after")
    def _each_source_says_its_own(self) -> Self:
        """Refuse settings of a single data set beside a list of several."""
        if isinstance(self.train, str):
            return self
        for name in ("split", "revision", "config", "max_rows"):
            if getattr(self, name) != type(self).model_fields[name].default and not (
                name == "split" and (self.eval or self.test)
            ):
                own = "rows" if name == "max_rows" else name
                raise ValueError(f"{name} is of one data set: give each source of train its {own}")
        for name, file in (("eval_split", self.eval), ("test_split", self.test)):
            if getattr(self, name) is not None and file is None:
                raise ValueError(f"{name} needs data.{name.removesuffix('_split')} beside a list")
        return self


LLAMA_PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""Names of all linear layers of a Llama's blocks, which recipes give to models that lack some."""


class Lora(Section):
    """The low-rank adapter that is trained."""

    rank: Positive = 16
    """Rank of the two low-rank matrices of each target."""
    alpha: Annotated[float, Field(gt=0)] = 16
    """The low-rank product is scaled by alpha/rank."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.05
    """Share of the adapter's inputs that is set to zero in training."""
    bias: Literal["none", "all", "lora_only"] = "none"
    """The biases that are trained too: none, all of the model, or those of the targets."""
    rslora: bool = False
    """Scale by alpha/sqrt(rank) instead of alpha/rank (arXiv 2312.03732)."""
    targets: list[str] | Literal["all-linear"] = "all-linear"
    """The projections that get an adapter: `all-linear` for all of the model's linear layers,
    without its head and routers, or a list of names; `workbench check` shows the resolved ones."""


class Train(Section):
    """The length of training, its batches, optimizer and checkpoints."""

    epochs: Annotated[float, Field(gt=0)] = 1
    """Passes over the training rows; a fraction ends within a pass."""
    max_steps: Positive | None = None
    """End after this many optimizer steps, even if `epochs` would take more."""
    batch_size: Positive = 4
    """Rows in one micro-step; the plan may split them further without changing the update."""
    accumulation: Positive = 1
    """Micro-steps in one optimizer step: batch_size × accumulation rows make one update."""
    learning_rate: Annotated[float, Field(gt=0)] = 2e-4
    """Peak learning rate."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.001
    """Decoupled weight decay of AdamW."""
    max_grad_norm: Annotated[float, Field(gt=0)] = 0.3
    """Gradients with a larger norm are scaled down to this norm."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """The course of the learning rate after the warm-up."""
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.03
    """Share of all steps over which the learning rate rises from zero."""
    optimizer: Optimizer = "auto"
    """`auto`: `adamw_torch`, whose states are small for an adapter, if it fits; else the guide's
    `paged_adamw_8bit`, which saves most of their bytes and costs time."""
    gradient_checkpointing: Literal["auto", "on", "off"] = "auto"
    """Recompute activations in the backward pass. `auto`: only if they would not fit otherwise."""
    save_every: Positive = 25
    """Optimizer steps between checkpoints."""
    keep: Literal["best", "last"] = "last"
    """The weights that become the adapter: those of the evaluated step with the lowest held-out
    loss (the last step is evaluated too), or those of the last step. Left out: `best` where
    `evaluate.every` is set. With `best`, every evaluated step leaves a checkpoint."""
    log_every: Positive = 25
    """Optimizer steps between metric rows."""
    seed: Seed = 42

    @property
    def rows_per_step(self) -> int:
        """Rows in one optimizer step."""
        return self.batch_size * self.accumulation


class Evaluate(Section):
    """The scores of an adapter on the held-out rows."""

    every: Positive | None = None
    """Optimizer steps between evaluations of held-out loss; left out: only at the end."""
    batch_size: Positive | Literal["auto"] = "auto"
    """Held-out rows that are evaluated and answered at a time; `auto`: as many as the card has room
    for, up to 256."""
    answer_pattern: str | None = None
    """A regular expression whose first group (or whole match) is the answer to compare, e.g.
    `####\\s*(\\S+)`. With it, answers are generated and scored, by exact match where no scorer is
    named."""
    scorer: str | list[str] | None = None
    """A scorer of generated answers, or a list of them: `exact_match`, `f1`, `rouge_l`, `json`, or
    a file of your own in the home's folder `scorers` (docs/scorers.md): `rubric`, or `rubric:min`
    if a lower score is better. Its name is the name of its score. Left out: `exact_match` if there
    is an answer pattern, else no answers are generated."""
    task: str | None = None
    """A task of lm-evaluation-harness whose metrics become scores, `<task>_<metric>`: the absolute
    path of its YAML file, or a name of the harness. `workbench evaluate --task` sets it
    (docs/scorers.md)."""
    max_new_tokens: Positive = 256
    """Most tokens generated per answer."""
    samples: Annotated[int, Field(ge=0)] = 3
    """Generated answers kept for reading."""
    rank_by: str = "auto"
    """The score that orders the board: `loss`, or one of the scorers. `auto`: the sweep's objective
    if it names one, else the first scorer if answers are scored, else loss."""

    @property
    def scorers(self) -> tuple[str, ...]:
        """Names of the scorers of generated answers; empty where none are generated."""
        if self.scorer is None:
            return ("exact_match",) if self.answer_pattern is not None else ()
        return (self.scorer,) if isinstance(self.scorer, str) else tuple(self.scorer)

    @field_validator("scorer")
    @classmethod
    def _names_scorers(cls, named: str | list[str] | None) -> str | list[str] | None:
        names = [named] if isinstance(named, str) else named or []
        if named is not None and not names:
            raise ValueError("is empty; leave it out, or name a scorer")
        for name in names:
            if problem := name_problem(name):
                raise ValueError(problem)
            if len({one for one in names if file_stem(one) == file_stem(name)}) > 1:
                raise ValueError(f"names {file_stem(name)} in both directions")
        if len(set(names)) < len(names):
            raise ValueError("names a scorer twice")
        return named

    @field_validator("task")
    @classmethod
    def _names_a_task(cls, task: str | None) -> str | None:
        if task is not None and task.endswith((".yaml", ".yml")) and not task.startswith("/"):
            raise ValueError("names a file; give its absolute path")
        return task

    @field_validator("answer_pattern")
    @classmethod
    def _compiles(cls, pattern: str | None) -> str | None:
        try:
            with warnings.catch_warnings():  # `[[` may mean something else one day
                warnings.simplefilter("ignore")
                re.compile(pattern or "")
        except (re.error, OverflowError, RecursionError) as broken:
            raise ValueError(f"is not a regular expression: {broken}") from broken
        return pattern

    @model_validator(mode="after")
    def _ranked_by_what_is_scored(self) -> Self:
        if self.rank_by in ("auto", "loss", *self.scorers):
            return self
        if self.task is not None and not name_problem(self.rank_by):
            return self  # only the harness knows the metrics of a task
        if self.rank_by == "exact_match" and not self.scorers:
            raise ValueError("rank_by: exact_match needs evaluate.answer_pattern")
        known = ", ".join(("auto", "loss", *self.scorers))
        shown = safe_line(self.rank_by, 60)
        raise ValueError(f"rank_by: {shown} is no score of this recipe; it has {known}")


class Range(Section):
    """A range of numbers that random and tpe draw from."""

    min: float
    max: float
    log: bool = False
    """Draw uniformly on the logarithm."""
    integer: bool = False
    """Draw whole numbers only."""
    when: dict[str, Any] = Field(default_factory=dict)
    """The parameter exists only if these swept settings have these values: `{lora.rslora: true}`,
    or one of several values: `{train.schedule: [cosine, linear]}`."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not self.min < self.max:
            raise ValueError(f"min {self.min:g} is not below max {self.max:g}")
        if self.log and self.min <= 0:
            raise ValueError("a log range starts above zero")
        if self.integer and math.ceil(self.min) > math.floor(self.max):
            raise ValueError(f"there is no whole number from {self.min:g} to {self.max:g}")
        return self


class Choice(Section):
    """A list of values with a condition; values without a condition are a plain list."""

    values: list[Any] = Field(min_length=1)
    when: dict[str, Any] = Field(default_factory=dict)
    """The parameter exists only if these swept settings have these values:
    `{lora.rslora: true}`."""


def _kind_of_parameter(given: Any) -> str:
    """Return which of the three forms a swept parameter has, so that only the mistakes of that form
    are reported."""
    if isinstance(given, Choice) or (isinstance(given, dict) and "values" in given):
        return "choice"
    return "range" if isinstance(given, Range | dict) else "list"


# Two names: a plain union for type checkers, a tagged one so that pydantic reports one branch.
Parameter = list[Any] | Range | Choice
_Parameter = Annotated[
    Annotated[list[Any], Tag("list")]
    | Annotated[Range, Tag("range")]
    | Annotated[Choice, Tag("choice")],
    Discriminator(_kind_of_parameter),
]


class EarlyStop(Section):
    """The rule that ends trials early, by their held-out loss at each evaluation."""

    method: Literal["asha", "median", "patience", "threshold"] = "asha"
    """`asha`: at each rung only the best trials continue (successive halving, arXiv 1810.05934).
    `median`: ends a trial that is worse than half of the finished trials were at that step.
    `patience`: ends a trial whose loss stopped falling. `threshold`: ends a trial above a loss."""
    from_step: Positive | None = None
    """No trial ends before this optimizer step; it is asha's first rung. Left out: the first
    evaluation; for asha, 1/reduction of the trial's steps, because curves still cross earlier
    (docs/search.md)."""
    reduction: Annotated[int, Field(ge=2, le=100)] = 3
    """asha: one trial in `reduction` continues, and each rung has `reduction` times the steps of
    the rung before."""
    trials: Positive = 5
    """median: number of finished trials before any trial is compared with them."""
    evaluations: Positive = 3
    """patience: evaluations in a row without a lower loss."""
    improvement: Annotated[float, Field(ge=0)] = 0.0
    """patience: least decrease of the loss that counts, in nats."""
    above: float | None = None
    """threshold: the loss, in nats per target token."""

    def first_step(self, every: int, steps: int) -> int:
        """Return the step of the first evaluation at which a trial of `steps` steps may end.

        Evaluations are at multiples of `every` steps; the result may lie beyond `steps`.
        """
        due = self.from_step or (steps // self.reduction if self.method == "asha" else every)
        return -(-max(due, 1) // every) * every

    @model_validator(mode="after")
    def _says_what_its_method_takes(self) -> Self:
        for name, method in _BELONGS.items():
            unused = getattr(self, name) != type(self).model_fields[name].default
            if unused and method != self.method:
                raise ValueError(f"{name} belongs to method: {method}, not {self.method}")
        if self.method == "threshold" and self.above is None:
            raise ValueError("method: threshold needs above: the loss at which a trial ends")
        return self


_BELONGS = {
    "reduction": "asha",
    "trials": "median",
    "evaluations": "patience",
    "improvement": "patience",
    "above": "threshold",
}


class Finals(Section):
    """The finals of a sweep: its best settings are trained again with other seeds."""

    top: Annotated[int, Field(ge=1, le=100)] = 3
    """Number of settings that are trained again: the best ones of the board."""
    seeds: Annotated[int, Field(ge=2, le=100)] = 3
    """Trainings of each of them, every one with a seed that no trial of the experiment had before.
    Seeds decide the order of the rows and the first weights of an adapter."""


class Sweep(Section):
    """The search space of an experiment, and how its points are chosen."""

    method: Literal["grid", "random", "tpe"] = "grid"
    """`grid` tries every point, `random` draws points, `tpe` draws points near the best so far."""
    trials: Positive | None = None
    """Number of trials. A grid without it tries every point; random and tpe need it or a budget."""
    hours: Annotated[float, Field(gt=0)] | None = None
    """Start no trial more than this many hours after the first one started."""
    gpu_hours: Annotated[float, Field(gt=0)] | None = None
    """Start no trial once the experiment's trials have used this many card-hours together."""
    max_parallel: Positive | None = None
    """Most trials of this experiment that run at once."""
    objective: str = "auto"
    """The score that the search optimises: `loss`, `perplexity`, `token_accuracy`, or one of
    `evaluate.scorer`. `auto`: the board's score. `eval_loss`: the newest held-out loss of the
    curve."""
    direction: Literal["auto", "minimize", "maximize"] = "auto"
    """`minimize` for loss, perplexity and scorers with `:min`, `maximize` for the others; the wrong
    one is refused."""
    early_stop: EarlyStop | None = None
    """The rule that ends trials early; left out: every trial runs to its end."""
    finals: Finals | None = None
    """After all trials have ended, train the best settings again with other seeds, outside of all
    budgets; left out: no finals."""
    seed: Seed = 0
    """Seed of the draws; the same seed and history give the same points."""
    parameters: dict[str, _Parameter] = Field(min_length=1)
    """Dotted recipe keys to a list of values, a range (random, tpe), or values with a condition."""

    @model_validator(mode="after")
    def _drawable(self) -> Self:
        for key, values in self.parameters.items():
            if isinstance(values, list) and not values:
                raise ValueError(f"{key} has no values to try")
            if self.method == "grid" and isinstance(values, Range):
                raise ValueError(
                    f"{key} is a range; a grid needs a list, or set method: random or tpe"
                )
        if self.method != "grid" and not (self.trials or self.hours or self.gpu_hours):
            raise ValueError(
                f"a {self.method} sweep needs trials: how many points to draw; "
                "or a budget in hours or gpu_hours"
            )
        return self


class Recipe(Section):
    """A recipe: model, data, LoRA, training, evaluation and, optionally, a sweep."""

    name: str = Field(min_length=1, max_length=80)
    """Name of the experiment in lists and on the screen."""
    model: Model
    data: Data
    lora: Lora = Field(default_factory=Lora)
    train: Train = Field(default_factory=Train)
    evaluate: Evaluate = Field(default_factory=Evaluate)
    sweep: Sweep | None = None

    @model_validator(mode="before")
    @classmethod
    def _shows_what_is_kept(cls, data: Any) -> Any:
        """Fill in `train.keep` where it is left out, so that every recipe shows what applies."""
        train = data.get("train", {}) if isinstance(data, dict) else None
        evaluate = data.get("evaluate") if isinstance(data, dict) else None
        if not isinstance(train, dict) or "keep" in train:
            return data
        every = isinstance(evaluate, dict) and evaluate.get("every") is not None
        return {**data, "train": {**train, "keep": "best" if every else "last"}}

    @property
    def rank_by(self) -> str:
        """Name of the score that the board ranks by.

        It is `evaluate.rank_by` if set, else the sweep's objective, else the first scorer if
        answers are scored, else loss. The objective `eval_loss` ranks by loss, its last value.
        """
        if self.evaluate.rank_by != "auto":
            return self.evaluate.rank_by
        if self.sweep is not None and self.sweep.objective != "auto":
            return "loss" if self.sweep.objective == "eval_loss" else self.sweep.objective
        return next(iter(self.evaluate.scorers), "loss")

    @property
    def objective(self) -> tuple[str, bool]:
        """Name of the score that the search optimises, and True if a higher one is better."""
        sweep = self.sweep
        name = self.rank_by if sweep is None or sweep.objective == "auto" else sweep.objective
        # A direction against the score was refused when the recipe was read.
        if sweep is None or sweep.direction == "auto":
            return name, up_is_better(name)
        return name, sweep.direction == "maximize"
