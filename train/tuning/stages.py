"""Stages by words: one recipe of fine-tuning in turn by each of them. Imports neither JAX nor TensorFlow.

    --stages text,head,gradual

`text` goes on with the plain text of the examples, by the objectives that the base was trained on; what the other words
train, train/tuning/strategies.py says. Source: Howard and Ruder 2018, arXiv:1801.06146, section 3 (text, then head and
layers); Kumar et al. 2022, arXiv:2202.10054, section 3 (a head before all: what was learnt is then bent less).
"""

import dataclasses
from collections.abc import Collection

from gptjax.spelling import did_you_mean
from train.recipe import OptimizerSpec, from_json
from train.tuning import strategies
from train.tuning.base import Base
from train.tuning.strategies import falling, trained_by
from train.tuning.tune_recipe import TuneRecipe

TEXT = "text"
WORDS = (TEXT, *strategies.WORDS)
OVER_TEXT = ("causal_lm", "masked_lm", "prefix_lm")  # objectives that need neither heads nor labels


def stage_words(stages: str) -> list[str]:
    """The words of --stages. Raises ValueError for one that is none, and for `text` behind another."""
    words = [word.strip() for word in stages.split(",")]
    for place, word in enumerate(words):
        if word == TEXT:
            if place:
                raise ValueError(f"--stages {stages}: {TEXT} goes first: the others learn from what it has read")
        elif not word or "." in word or "/" in word:
            raise ValueError(
                f"--stages {stages}: give words such as text,head,gradual, or the path of a file that ends in .py"
            )
        elif word not in WORDS and not word.startswith("top-"):
            raise ValueError(f"--stages {stages}: {word!r} is no stage{did_you_mean(word, WORDS)}")
        else:
            strategies.check_word(word)
    return words


def staged(recipe: TuneRecipe, words: Collection[str], base: Base, said: Collection[str] = ()) -> list[TuneRecipe]:
    """A recipe for each word; `said`, settings that were given, are those of all.

    Raises ValueError as `strategies.trained_by` does.
    """
    plain = dataclasses.replace(recipe.optimizer, frozen=OptimizerSpec().frozen)
    weights = recipe.optimizer if "optimizer.frozen" in said else plain
    bare = dataclasses.replace(recipe, lora=None, optimizer=weights)
    with_adapters = dataclasses.replace(bare, lora=recipe.lora)
    return [of_texts(bare, base, said) if word == TEXT else trained_by(with_adapters, word, said) for word in words]


def of_texts(recipe: TuneRecipe, base: Base, said: Collection[str] = ()) -> TuneRecipe:
    """The stage `text`: every weight, at rates that fall from the top layer down, on a slanted triangle."""
    rates = {} if "optimizer.rates" in said else {"rates": falling(recipe.model.L, heads=False)}
    schedule = {} if "optimizer.schedule" in said else {"schedule": "slanted"}
    return dataclasses.replace(
        recipe,
        text_rows=text_rows(base) if recipe.learns_heads else ("causal_lm",),  # chats have no marks of their words
        optimizer=dataclasses.replace(recipe.optimizer, **rates, **schedule),
    )


def text_rows(base: Base) -> tuple[str, ...]:
    """The objectives over text alone that a base was trained on, in their proportions; next words, if nobody knows."""
    file = base.path / "recipe.json"
    if not base.is_run or not file.is_file():
        return ("causal_lm",)
    tasks = from_json(file.read_text(encoding="utf-8")).objectives.tasks
    rows = {name: tasks[name].rows for name in OVER_TEXT if tasks[name].rows}
    first, *others = rows or ("causal_lm",)  # the first takes what the others leave: rounded shares need not sum to 1
    return (first, *(f"{name}={rows[name] / sum(rows.values()):.4g}" for name in others))
