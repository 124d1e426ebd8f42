"""Recognise the trainer that a file was written for, by its keys."""

from __future__ import annotations

from collections.abc import Iterable

_OF_LLAMA_FACTORY = {"stage", "finetuning_type", "cutoff_len", "lora_rank", "lora_target"}
_BASE_MODEL = {"base_model", "model_name_or_path"}
"""The names that trainers have for the key of the base model; no recipe has such a key."""
_SECTIONS = {"model", "data"}
"""Sections that every recipe has."""


def trainer_of(keys: Iterable[str]) -> str | None:
    """Return whose file has these keys: Axolotl, LLaMA-Factory or TRL; None for another one."""
    names = set(keys)
    if "base_model" in names:
        return "Axolotl"
    if names & _OF_LLAMA_FACTORY:
        return "LLaMA-Factory"
    return "TRL" if "model_name_or_path" in names else None


def trainer_instead_of_recipe(keys: Iterable[str]) -> str | None:
    """Return the trainer of a file that names a base model and has no section of a recipe.

    None for a recipe, also for one in which a single key is of a trainer.
    """
    names = {str(key) for key in keys}
    return trainer_of(names) if names & _BASE_MODEL and not names & _SECTIONS else None
