"""A recipe from the words of a command line, with its help. Imports neither JAX nor TensorFlow."""

import dataclasses
import inspect
import sys
from collections.abc import Sequence
from typing import Annotated

import tyro

from gptjax.command.options import options, read, take
from gptjax.config import SIZES, Shape
from gptjax.spelling import did_you_mean
from train.recipe import Recipe, load_recipe, recipe_names
from train.record.older import of_old_flags

# What --help shows; --help-all lists every setting.
PLAIN = (
    *("run", "steps", "seed"),
    *("data.sources", "data.tokenizer", "data.vocabulary"),
    "objectives.rows",
    *("model.T", "model.D", "model.L", "model.N"),
    *("optimizer.name", "optimizer.learning_rate", "optimizer.schedule"),
    *("batch.rows", "batch.micro_batches"),
    *("mesh.fsdp", "mesh.tensor"),
    *("checkpoint.every", "stop.minutes", "stop.patience"),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chosen:
    """Which recipe, before any of its settings."""

    recipe: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="[RECIPE]")] = dataclasses.field(
        default="laptop",
        metadata={
            "help": f"{', '.join(recipe_names())}; or the path of your own .py file with a function recipe(), or of "
            "the recipe.json of a run"
        },
    )
    size: str | None = dataclasses.field(
        default=None, metadata={"help": f"another model in place of the recipe's: {', '.join(SIZES)}"}
    )


def parse(
    words: Sequence[str], program: str = "./launch.sh pretrain", own: Sequence[type] = (), about: str | None = None
) -> Recipe:
    """A recipe with its overrides; --help prints and exits.

    For the help: `own`, what the program has taken out of the words already, and `about`, what it does; None = what the
    recipe is.

    Raises ValueError for an unknown recipe, size or field, and for a value that cannot be.
    """
    chosen, rest = take(Chosen, words)
    make = load_recipe(chosen.recipe)
    recipe = make()
    if chosen.size is not None:
        if chosen.size not in SIZES:
            raise ValueError(f"unknown size {chosen.size!r}{did_you_mean(chosen.size, list(SIZES))}")
        recipe = dataclasses.replace(recipe, model=SIZES[chosen.size]())
    recipe, rest = of_old_flags(rest, recipe)
    model = {word.partition("=")[0].replace("_", "-") for word in rest if word.startswith("--model.")}
    if model - {option.flag for option in options(Shape, path="model.")}:
        recipe = dataclasses.replace(recipe)
        object.__setattr__(recipe, "model", recipe.model.architecture())  # which a recipe would make a shape again
    about = about or inspect.cleandoc(sys.modules[make.__module__].__doc__ or "")
    return read(
        Recipe, rest, program, default=recipe, about=about, plain=PLAIN, beside=(Chosen, *own)
    )  # fmt: skip
