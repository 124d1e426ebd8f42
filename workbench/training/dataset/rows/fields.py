"""The columns of a row and the fields of a turn that are not used, sorted by how much that matters.

A field that would change what is trained on is refused; one that is neither used nor known to be
harmless is reported with its number of rows; the rest is passed over.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from workbench.errors import DataError
from workbench.text import safe_line

HARMLESS = frozenset({
    "id", "ids", "idx", "index", "uuid", "guid", "key", "hash", "sha", "md5", "__index_level_0__",
    "source", "sources", "origin", "dataset", "subset", "split", "url", "link", "license", "author",
    "category", "categories", "topic", "topics", "tag", "tags", "domain", "task", "type", "lang",
    "language", "model", "model_name", "generator", "date", "time", "timestamp", "created",
    "created_at", "updated_at", "score", "scores", "rating", "quality", "difficulty", "level",
    "length", "num_tokens", "token_count", "tokens", "turns", "num_turns", "meta", "metadata",
    "conversation_id", "conversation_hash", "message_id", "parent_id", "prompt_id", "row_id",
    "sample_id", "question_id", "user_id", "turn_id", "turn_index", "tool_call_id",
})  # fmt: skip
"""Names of metadata, compared in lower case: what they hold does not belong into a prompt."""

TOOLS_HINT = (
    "give the row as messages: tools stand in a column tools, and calls in a turn's tool_calls; "
    "the model's chat template writes both"
)
MEDIA_HINT = (
    "only text is trained on: leave out rows with images or sounds, or that field and its "
    "placeholders in the text"
)
REFUSED = {
    **dict.fromkeys(("tools", "functions", "tool_calls", "function_call"), TOOLS_HINT),
    **dict.fromkeys(("image", "images", "video", "videos", "audio", "audios"), MEDIA_HINT),
}
"""Names of fields without which a row means something else, each with its hint."""


_EMPTY_JSON = ("null", "[]", "{}")
"""Texts with which other tools write that a row has no tools or images."""
_NOT_LEARNED = ("weight", "train", "loss", "trainable")
"""Fields of a turn with which other tools leave its answer out of what is learned: 0 or false."""


def is_empty(value: Any) -> bool:
    """Return whether a field holds nothing: null, no text, or no items.

    Parquet gives every row all fields, so that null means that the row does not have it.
    """
    return value is None or (isinstance(value, str | list | dict) and not value)


def is_given(value: Any) -> bool:
    """Return whether a field for tools or media holds something, also as JSON text."""
    return not (is_empty(value) or (isinstance(value, str) and value.strip() in _EMPTY_JSON))


def check_characters(text: str, place: str) -> None:
    """Raise DataError, naming `place`, for a text that UTF-8, and so the tokenizer, cannot take."""
    try:
        text.encode()
    except UnicodeEncodeError as broken:
        raise DataError(
            f"{place} holds half a character (a lone surrogate) at {broken.start + 1}",
            hint="write the text again from its source; an emoji was cut in two",
        ) from broken


def refuse_unlearned(turn: Mapping[str, Any], place: str) -> None:
    """Raise DataError, naming `place`, for a turn whose fields say that it is not to be learned."""
    for name in _NOT_LEARNED:
        value = turn.get(name)
        if isinstance(value, bool | int | float) and not value:
            raise DataError(
                f"{place} has {name}: {str(value).lower()}, and its answer would be learned",
                hint="end the chat before that answer, or take the field out where it may be "
                "learned",
            )


def unused_fields(fields: Mapping[str, Any], used: Iterable[str], place: str) -> tuple[str, ...]:
    """Return the names of filled fields that are neither in `used` nor harmless.

    Raises DataError, naming `place`, for a filled field of REFUSED.
    """
    known = set(used)
    left = []
    for name, value in fields.items():
        # Null is no value: parquet has every column in every row.
        if name in known or is_empty(value):
            continue
        lower = str(name).lower()
        if lower in REFUSED:
            if not is_given(value):
                continue
            raise DataError(
                f"{place} has {safe_line(name, 60)}, which would be left out of what is trained on",
                hint=REFUSED[lower],
            )
        if lower not in HARMLESS:
            left.append(safe_line(name, 60))
    return tuple(left)
