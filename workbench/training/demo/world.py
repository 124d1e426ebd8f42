"""The demo's small world: what its model is pretrained on, and the task it is then tuned for.

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
"""The largest number anywhere in the world, and the most that one + or - moves it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """A story's sentences, the working that solves it, and who asks about what."""

    sentences: tuple[str, ...]
    working: tuple[str, ...]
    total: int
    person: str
    thing: str


def sum_of(rng: random.Random, start: int | None = None) -> tuple[int, str, int, int]:
    """(left, sign, right, result) of one + or - with every number in 1..MOST."""
    left = start if start is not None else rng.randint(2, MOST - 2)
    adds = left < MOST and (left < 2 or rng.random() < 0.5)
    right = rng.randint(1, min(STRIDE, MOST - left if adds else left - 1))
    return left, "+" if adds else "-", right, left + right if adds else left - right


def product_of(rng: random.Random) -> tuple[int, str, int, int]:
    """(left, sign, right, result) of one multiplication out of the small table."""
    left, right = rng.randint(2, 5), rng.randint(2, 8)
    return left, "*", right, left * right


def as_line(parts: tuple[int, str, int, int]) -> str:
    """`7 + 5 = 12`."""
    left, sign, right, result = parts
    return f"{left} {sign} {right} = {result}"


def change(rng: random.Random, who: str, sign: str, count: int) -> str:
    """The sentence in which `who` gains or loses `count` things."""
    if sign == "+":
        return f"{who} {rng.choice(GAINS)} {count} more."
    return f"{who} {rng.choice(LOSSES)} {count}."


def story(rng: random.Random) -> Story:
    """A story of one or two steps."""
    person, thing = rng.choice(tuple(PEOPLE)), rng.choice(THINGS)
    kind = rng.random()
    if kind < 0.25:
        first = product_of(rng)
        opening = [f"{person} has {first[0]} boxes.", f"Each box has {first[2]} {thing}."]
    else:
        first = sum_of(rng)
        opening = [f"{person} has {first[0]} {thing}."]
        opening.append(change(rng, PEOPLE[person], first[1], first[2]))
    working = [first]
    if 0.15 < kind < 0.25 or kind > 0.75:
        second = sum_of(rng, first[3])
        who = rng.choice((PEOPLE[person], "Then " + PEOPLE[person].lower()))
        opening.append(change(rng, who, second[1], second[2]))
        working.append(second)
    return Story(
        sentences=tuple(opening),
        working=tuple(map(as_line, working)),
        total=working[-1][3],
        person=person,
        thing=thing,
    )


# ── the fine-tuning task ─────────────────────────────────────────────────────────────────────


def task_row(rng: random.Random) -> dict[str, str]:
    """One question with its working and `#### N`, like a small GSM8K row."""
    told = story(rng)
    end = rng.choice((f"does {told.person} have", "are there"))
    question = f"How many {told.thing} {end} now?"
    return {
        "question": " ".join((*told.sentences, question)),
        "answer": "\n".join((*told.working, f"#### {told.total}")),
    }


def task_rows(seed: int = TASK_SEED) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """(train, eval): no question stands twice, so none of eval's stands in train."""
    rng, rows = random.Random(seed), dict[str, dict[str, str]]()
    while len(rows) < TRAIN_ROWS + EVAL_ROWS:
        row = task_row(rng)
        rows.setdefault(row["question"], row)
    drawn = list(rows.values())
    return drawn[:TRAIN_ROWS], drawn[TRAIN_ROWS:]


def jsonl(rows: Sequence[dict[str, str]]) -> str:
    """The rows as they stand in a file: one JSON object a line."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


# ── the pretraining corpus ───────────────────────────────────────────────────────────────────


def chat(*turns: str) -> str:
    """Alternating user and assistant turns in the demo's chat format."""
    said = zip(("user", "assistant") * len(turns), turns, strict=False)
    return "".join(
        f"<|start_header_id|>{role}<|end_header_id|>\n\n{text}<|eot_id|>" for role, text in said
    )


def sums(rng: random.Random) -> str:
    """Lines of arithmetic; some go on from the result of the line before."""
    parts = [sum_of(rng) if rng.random() < 0.75 else product_of(rng)]
    for _ in range(rng.randint(1, 7)):
        if rng.random() < 0.4:
            parts.append(sum_of(rng, parts[-1][3]))
        else:
            parts.append(sum_of(rng) if rng.random() < 0.8 else product_of(rng))
    return "\n".join(map(as_line, parts)) + "<|end_of_text|>"


def scene(rng: random.Random) -> str:
    """Two or three sentences about animals, colours and places."""
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


def tale(rng: random.Random) -> str:
    """A story with its end told in words, sometimes under a heading."""
    told = story(rng)
    end = f"Now {told.person} has {told.total} {told.thing}."
    if rng.random() < 0.5:
        end = f"Now there are {told.total} {told.thing}."
    head = f"#### {rng.choice((rng.choice(PLACES), told.thing, str(rng.randint(1, MOST))))}\n"
    text = " ".join((*told.sentences, end)) + "<|end_of_text|>"
    return head + text if rng.random() < 0.25 else text


def notes(rng: random.Random) -> str:
    """Scenes under headings: the only other place where `####` stands."""
    parts = [
        f"#### {rng.choice((*PLACES, *map(str, range(1, MOST))))}\n{scene(rng)}"
        for _ in range(rng.randint(1, 3))
    ]
    return "\n".join(parts) + "<|end_of_text|>"


def sum_chat(rng: random.Random) -> str:
    """A sum asked for in words or signs, answered as a line of arithmetic."""
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
        return chat(f"{asked} Then {more}.", f"{as_line(parts)}\n{as_line(after)}")
    return chat(asked, as_line(parts))


def fact_chat(rng: random.Random) -> str:
    """A question about something just told; the answer is a copy, never a sum."""
    person, other = rng.sample(tuple(PEOPLE), 2)
    thing = rng.choice(THINGS)
    pet = f"{rng.choice(COLOURS)} {rng.choice(ANIMALS)}"
    count, more = rng.sample(range(1, MOST), 2)
    return rng.choice((
        chat(f"{person} has {count} {thing}. {other} has {more}. How many {thing} does {other} "
             f"have?", f"{other} has {more} {thing}."),
        chat(f"{person} has a {pet}. What does {person} have?", f"A {pet}."),
        chat(f"What is more, {count} or {more}?", f"{max(count, more)}"),
        chat("Hello!", f"Hello, I am {person}."),
    ))  # fmt: skip


def say_chat(rng: random.Random) -> str:
    """A text to be said again, word for word; it holds numbers."""
    told = story(rng) if rng.random() < 0.6 else None
    text = " ".join(told.sentences) if told else scene(rng)
    return chat(f"Say this again: {text}", text)


KINDS: tuple[tuple[Callable[[random.Random], str], int], ...] = (
    (sums, 34), (tale, 26), (notes, 6), (sum_chat, 20), (fact_chat, 8), (say_chat, 6),
)  # fmt: skip


def documents(seed: int = CORPUS_SEED) -> Iterator[str]:
    """Endless pretraining documents, each closed by its end-of-text or end-of-turn token."""
    rng = random.Random(seed)
    makers = [maker for maker, share in KINDS for _ in range(share)]
    while True:
        yield rng.choice(makers)(rng)
