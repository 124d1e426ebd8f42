"""Parsing of rows into examples, by the shape that the first row has."""

from __future__ import annotations

from workbench.errors import DataError
from workbench.recipe.schema import Data
from workbench.text import safe_line
from workbench.training.dataset.chat.rendering import Renderer
from workbench.training.dataset.chat.template import DATE
from workbench.training.dataset.files.lines import DataRow
from workbench.training.dataset.rows.shapes import Example, example_of, find_shape

CHAT_SHAPES = ("messages", "sharegpt")
"""Shapes whose rows are chats, which only a chat template can render."""


class RowParser:
    """Parses rows into examples; the first row decides the shape, and every other must have it.

    `shape` and `loss_on` are empty strings until the first row was parsed. Picklable, so that the
    processes of the tokenizer pool share one decision.
    """

    def __init__(self, data: Data, *, templates: bool, most_tokens: int | None = None) -> None:
        """Start without a shape.

        `templates` says that the model has a chat template; `most_tokens` is what the model reads.
        """
        self._data = data
        self._templates = templates
        self._templated = data.chat_template == "auto" and templates
        self.max_tokens = data.max_tokens
        self.most_tokens = most_tokens
        self.shape = ""
        self.loss_on = ""
        self.reasoning = data.reasoning

    def parse(self, row: DataRow) -> Example:
        """Return what the row says; raise DataError, naming its place, where it does not fit."""
        if not self.shape:
            self._decide_shape(row)
        return example_of(self._data, self.shape, row, templated=self._templated)

    def _decide_shape(self, row: DataRow) -> None:
        # The shape is stored last: after a refusal the next row is asked for its shape again.
        shape = find_shape(self._data, row)
        self.loss_on = _loss_on(self._data, shape)
        if shape in CHAT_SHAPES and not self._templated:
            if self._templates:
                raise DataError(
                    "chats need a chat template, and data.chat_template is never",
                    hint="set data.chat_template: auto, or give the rows as prompt and completion",
                )
            raise DataError(
                "chats need a chat template, and this model has none",
                hint="pick an instruction-tuned model (often named …-Instruct), or give the rows "
                "as prompt and completion",
            )
        self.shape = shape

    @property
    def chats(self) -> bool:
        """True if rows are rendered as chats; known once a row was parsed."""
        return self.shape in CHAT_SHAPES or (self._templated and self.shape != "text")

    def check_columns(self, row: DataRow) -> None:
        """Raise DataError unless the row has the mapped columns; a separate eval file may not."""
        find_shape(self._data, row)

    def notes(self, renderer: Renderer) -> list[str]:
        """Return the warnings about how the renderer finds the assistant's turns."""
        notes: list[str] = []
        if self.shape == "text" and self._data.system:
            notes.append(
                "data.system is not used: plain text has no system message; take it out of the "
                "recipe, or write it into the rows' text"
            )
        if self.reasoning != "keep" and not self.chats:
            notes.append(
                f"data.reasoning: {self.reasoning} is not used: these rows are no chats; take it "
                "out of the recipe"
            )
        template = renderer.template
        if template is None:
            return notes
        found = template.marked or template.known_family
        if self.shape in CHAT_SHAPES and self.loss_on == "assistant" and not found:
            notes.append(
                "the chat template has no generation marks: what the assistant says is found by "
                "rendering each chat up to its turns; look at the examples"
            )
        header = renderer.turn_format.unasked_header
        if header and not template.marked:
            notes.append(
                f"the chat template has no generation prompt, so that the header of an answer, "
                f"{safe_line(header, 60)}, is learned with it; end the model's chat template with "
                "the header inside {% if add_generation_prompt %} and {% endif %}"
            )
        if template.dated:
            notes.append(
                f"the chat template writes today's date; all rows have {DATE:%d %b %Y} in its "
                "place, so that they do not depend on the day; for another date, write it into "
                "the model's chat template instead of strftime_now"
            )
        return notes


def _loss_on(data: Data, shape: str) -> str:
    if shape == "text":
        if data.loss_on in ("completion", "assistant"):
            raise DataError(
                f"data.loss_on is {data.loss_on}, but plain text has no such part",
                hint="set data.loss_on: all, or give the rows as prompt and completion",
            )
        return "all"
    if data.loss_on != "auto":
        return data.loss_on
    return "assistant" if shape in CHAT_SHAPES else "completion"
