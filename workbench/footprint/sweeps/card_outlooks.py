"""A recipe's outlook on a set of cards, with what the engine settles once for all its trials."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from workbench.errors import ModelError, WorkbenchError
from workbench.footprint.outlook import Outlook, outlook_on
from workbench.footprint.planner import NO_HISTORY, Config, History
from workbench.footprint.row_lengths import UNREAD, Lengths
from workbench.footprint.sweeps.resolve_once import (
    resolve_once,
    resolved_recipe,
    sweep_lengths,
    with_resolved,
)
from workbench.footprint.sweeps.suggestions import with_sweep_suggestions
from workbench.footprint.sweeps.worst_case import worst_points
from workbench.machine.cards import Card
from workbench.recipe.schema import Recipe


def card_outlooks(
    recipe: Recipe,
    config: Config,
    cards: Sequence[Card],
    lengths: Lengths = UNREAD,
    history: History = NO_HISTORY,
) -> list[Outlook]:
    """Return an outlook for each kind of card: those that fit first, the roomiest of them first.

    Of a recipe with a sweep the trial that takes the most bytes is judged, with the precision, the
    optimizer and the rows scored at once that the engine settles for all trials on these cards.
    `lengths` are those of the recipe's own rows.

    Raises WorkbenchError where none of the cards has what the recipe asks for by name, e.g. bf16,
    and ModelError for a model that cannot be planned.
    """
    resolved = resolve_once(recipe, config, cards, lengths, history)
    shared, rows = with_resolved(recipe, resolved), sweep_lengths(recipe, lengths)
    unlike = list({card.plan_key: card for card in cards}.values())
    found, lacking = [], []
    for card, point in zip(unlike, worst_points(shared, config, unlike), strict=True):
        try:
            worst = resolved_recipe(recipe, resolved, point)
            one = outlook_on(worst, config, card, rows, history)
            one = with_sweep_suggestions(one, shared, config, rows, history)
            found.append(replace(one, point=point))
        except ModelError:
            raise
        except WorkbenchError as refused:
            lacking.append(refused)
    if lacking and not found:
        raise lacking[0]
    return sorted(found, key=lambda one: (not one.fits, -one.room_bytes))
