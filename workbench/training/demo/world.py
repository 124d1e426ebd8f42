"""The demo's texts: the corpus its model is pretrained on, and the fine-tuning task.

Both are drawn from `random.Random(seed)` alone, so a seed names the bytes. The pretraining
documents hold arithmetic, stories and short chats; none of them asks a story question and
answers it with a working and `#### N`. That form is the fine-tuning task's own.
"""

import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

CORPUS_SEED = 11
TASK_SEED = 7
TRAIN_ROWS = 800
EVAL_ROWS = 96

PEOPLE = {
    "Tom": "He", "Ben": "He", "Sam": "He", "Max": "He", "Leo": "He", "Dan": "He",
    "Mia": "She", "Ana": "She", "Eva": "She", "Lea": "She", "Kim": "She", "Zoe": "She",
}  # fmt: skip
THINGS = ("apples", "pens", "books", "balls", "coins", "eggs", "cards", "shells", "toys", "nuts")
COLOURS = ("red", "blue", "green", "white", "black")
ANIMALS = ("cat", "dog", "bird", "horse", "fish")
PLACES = ("park", "house", "garden", "school", "shop")
GAINS = ("buys", "finds", "gets", "wins")
LOSSES = ("loses", "sells", "gives away", "uses")

MOST, STRIDE = 40, 15
"""The largest number in any text, and the most that one + or - changes it by."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoryProblem:
    """An arithmetic story: its sentences, the working that solves it, its person and thing."""

    sentences: tuple[str, ...]
    working: tuple[str, ...]
    total: int
    person: str
    thing: str


def sum_of(rng: random.Random, start: int | None = None) -> tuple[int, str, int, int]:
    """Return (left, sign, right, result) of one + or -, with every number in 1..MOST."""
    left = start if start is not None else rng.randint(2, MOST - 2)
    adds = left < MOST and (left < 2 or rng.random() < 0.5)
    right = rng.randint(1, min(STRIDE, MOST - left if adds else left - 1))
    return left, "+" if adds else "-", right, left + right if adds else left - right


def product_of(rng: random.Random) -> tuple[int, str, int, int]:
    """Return (left, sign, right, result) of one multiplication of small numbers."""
    left, right = rng.randint(2, 5), rng.randint(2, 8)
    return left, "*", right, left * right


def as_line(parts: tuple[int, str, int, int]) -> str:
    """Return the sum as a line, e.g. `7 + 5 = 12`."""
    left, sign, right, result = parts
    return f"{left} {sign} {right} = {result}"


def change_sentence(rng: random.Random, who: str, sign: str, count: int) -> str:
    """Return the sentence in which `who` gains or loses `count` things."""
    if sign == "+":
        return f"{who} {rng.choice(GAINS)} {count} more."
    return f"{who} {rng.choice(LOSSES)} {count}."


def story_problem(rng: random.Random) -> StoryProblem:
    """Return a story of one or two arithmetic steps."""
    person, thing = rng.choice(tuple(PEOPLE)), rng.choice(THINGS)
    kind = rng.random()
    if kind < 0.25:
        first = product_of(rng)
        opening = [f"{person} has {first[0]} boxes.", f"Each box has {first[2]} {thing}."]
    else:
        first = sum_of(rng)
        opening = [f"{person} has {first[0]} {thing}."]
        opening.append(change_sentence(rng, PEOPLE[person], first[1], first[2]))
    working = [first]
    if 0.15 < kind < 0.25 or kind > 0.75:
        second = sum_of(rng, first[3])
        who = rng.choice((PEOPLE[person], "Then " + PEOPLE[person].lower()))
        opening.append(change_sentence(rng, who, second[1], second[2]))
        working.append(second)
    return StoryProblem(
        sentences=tuple(opening),
        working=tuple(map(as_line, working)),
        total=working[-1][3],
        person=person,
        thing=thing,
    )


# ── the fine-tuning task ─────────────────────────────────────────────────────────────────────


def task_row(rng: random.Random) -> dict[str, str]:
    """Return one question with its working and `#### N`, like a small GSM8K row."""
    problem = story_problem(rng)
    end = rng.choice((f"does {problem.person} have", "are there"))
    question = f"How many {problem.thing} {end} now?"
    return {
        "question": " ".join((*problem.sentences, question)),
        "answer": "\n".join((*problem.working, f"#### {problem.total}")),
    }


def task_rows(seed: int = TASK_SEED) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """Return the (train, eval) rows; no question stands twice, so none of eval's is in train."""
    rng, rows = random.Random(seed), dict[str, dict[str, str]]()
    while len(rows) < TRAIN_ROWS + EVAL_ROWS:
        row = task_row(rng)
        rows.setdefault(row["question"], row)
    drawn = list(rows.values())
    return drawn[:TRAIN_ROWS], drawn[TRAIN_ROWS:]


def jsonl_text(rows: Sequence[dict[str, str]]) -> str:
    """Return the rows as a file's text: one JSON object a line."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


# ── the pretraining corpus ───────────────────────────────────────────────────────────────────


def chat_text(*turns: str) -> str:
    """Return alternating user and assistant turns in the demo's chat format."""
    said = zip(("user", "assistant") * len(turns), turns, strict=False)
    return "".join(
        f"<|start_header_id|>{role}<|end_header_id|>\n\n{text}<|eot_id|>" for role, text in said
    )


def arithmetic_lines(rng: random.Random) -> str:
    """Return lines of arithmetic; some continue from the result of the line before."""
    parts = [sum_of(rng) if rng.random() < 0.75 else product_of(rng)]
    for _ in range(rng.randint(1, 7)):
        if rng.random() < 0.4:
            parts.append(sum_of(rng, parts[-1][3]))
        else:
            parts.append(sum_of(rng) if rng.random() < 0.8 else product_of(rng))
    return "\n".join(map(as_line, parts)) + "<|end_of_text|>"


def scene_text(rng: random.Random) -> str:
    """Return two or three sentences about animals, colours and places."""
    person, colour = rng.choice(tuple(PEOPLE)), rng.choice(COLOURS)
    animal, place = rng.choice(ANIMALS), rng.choice(PLACES)
    they = PEOPLE[person]
    lines = [
        f"{person} has a {colour} {animal}.",
        f"The {animal} is in the {place}.",
        f"{they} is in the {place} with {rng.choice(tuple(PEOPLE))}.",
        f"There are {rng.randint(1, MOST)} {rng.choice(THINGS)} in the {place}.",
    ]
    return " ".join(rng.sample(lines, rng.randint(2, 3)))


def story_text(rng: random.Random) -> str:
    """Return a story with its result in words, sometimes under a heading."""
    problem = story_problem(rng)
    end = f"Now {problem.person} has {problem.total} {problem.thing}."
    if rng.random() < 0.5:
        end = f"Now there are {problem.total} {problem.thing}."
    head = f"#### {rng.choice((rng.choice(PLACES), problem.thing, str(rng.randint(1, MOST))))}\n"
    text = " ".join((*problem.sentences, end)) + "<|end_of_text|>"
    return head + text if rng.random() < 0.25 else text


def headed_scenes(rng: random.Random) -> str:
    """Return scenes under headings: the only other documents with `####`."""
    parts = [
        f"#### {rng.choice((*PLACES, *map(str, range(1, MOST))))}\n{scene_text(rng)}"
        for _ in range(rng.randint(1, 3))
    ]
    return "\n".join(parts) + "<|end_of_text|>"


def sum_chat(rng: random.Random) -> str:
    """Return a chat that asks for a sum in words or signs, answered by a line of arithmetic."""
    left, sign, right, result = parts = sum_of(rng) if rng.random() < 0.7 else product_of(rng)
    words = {
        "+": f"Add {right} to {left}.",
        "-": f"Take {right} from {left}.",
        "*": f"How many are {left} boxes of {right}?",
    }[sign]
    asked = rng.choice((f"What is {left} {sign} {right}?", words))
    if rng.random() < 0.3:
        after = sum_of(rng, result)
        more = {"+": f"add {after[2]}", "-": f"take {after[2]}"}[after[1]]
        return chat_text(f"{asked} Then {more}.", f"{as_line(parts)}\n{as_line(after)}")
    return chat_text(asked, as_line(parts))


def fact_chat(rng: random.Random) -> str:
    """Return a chat about a fact just stated; the answer is a copy, never a sum."""
    person, other = rng.sample(tuple(PEOPLE), 2)
    thing = rng.choice(THINGS)
    pet = f"{rng.choice(COLOURS)} {rng.choice(ANIMALS)}"
    count, more = rng.sample(range(1, MOST), 2)
    return rng.choice((
        chat_text(f"{person} has {count} {thing}. {other} has {more}. How many {thing} does "
                  f"{other} have?", f"{other} has {more} {thing}."),
        chat_text(f"{person} has a {pet}. What does {person} have?", f"A {pet}."),
        chat_text(f"What is more, {count} or {more}?", f"{max(count, more)}"),
        chat_text("Hello!", f"Hello, I am {person}."),
    ))  # fmt: skip


def say_chat(rng: random.Random) -> str:
    """Return a chat that asks for a text with numbers to be repeated word for word."""
    problem = story_problem(rng) if rng.random() < 0.6 else None
    text = " ".join(problem.sentences) if problem else scene_text(rng)
    return chat_text(f"Say this again: {text}", text)


KINDS: tuple[tuple[Callable[[random.Random], str], int], ...] = (
    (arithmetic_lines, 34), (story_text, 26), (headed_scenes, 6), (sum_chat, 20),
    (fact_chat, 8), (say_chat, 6),
)  # fmt: skip


def corpus_documents(seed: int = CORPUS_SEED) -> Iterator[str]:
    """Yield pretraining documents without end; each ends with an end-of-text or -turn token."""
    rng = random.Random(seed)
    makers = [maker for maker, share in KINDS for _ in range(share)]
    while True:
        yield rng.choice(makers)(rng)
