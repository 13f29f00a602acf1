"""The one table of what to change where memory lacks, in settings. Imports neither JAX nor TensorFlow."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from gptjax.mesh_axes import REMAINDER, axes_of, row_axes
from train.recipe import Recipe

TOLD = 3  # changes that are enough
LONG = 4096  # tokens of a row that a device keeps at least, where rows are split
LAST = "more devices, with mesh.fsdp over all of them, or a smaller model"  # where no setting helps


class Lever(NamedTuple):
    """A setting that takes less memory at other values."""

    setting: str
    now: Any
    values: tuple[Any, ...]  # mildest first
    words: str  # the same for people
    of_state: bool  # whether it lessens parameters, gradients or moments, and not only what a step holds beside them

    def on(self, recipe: Recipe, value: Any) -> Recipe:
        """The recipe with that value."""
        part, _, name = self.setting.partition(".")
        left = {REMAINDER: None} if part == "mesh" else {}  # takes what this leaves
        changed = dataclasses.replace(getattr(recipe, part), **left, **{name: value})
        return dataclasses.replace(recipe, **{part: changed})


def levers(recipe: Recipe, devices: int) -> list[Lever]:
    """All that would help this recipe on so many devices; nothing that is as small as it gets already."""
    batch, compute, optimizer = recipe.batch, recipe.compute, recipe.optimizer
    sizes = recipe.mesh.over(devices)
    ways = math.prod(sizes[axis] for axis in row_axes())
    remats = ("none", "products", "full")
    parts = [n for n in range(batch.micro_batches + 1, batch.rows + 1)
             if batch.rows % n == 0 and batch.rows // n % ways == 0]  # fmt: skip
    fewer = [rows for rows in range(batch.rows // 2, 0, -1)
             if batch.rows % rows == 0 and rows % (ways * batch.micro_batches) == 0]  # fmt: skip
    pieces = [n for n in _more(recipe, sizes, "context", devices)
              if recipe.row_length % n == 0 and recipe.row_length // n >= LONG]  # fmt: skip
    wider = _more(recipe, sizes, "fsdp", devices)
    lighter = ("muon", "lion", "adafactor") if optimizer.name in ("adam", "adamw", "rmsprop") else ()
    half = ("bfloat16",) if compute.dtype == "float32" else ()
    table = (
        Lever("compute.remat", compute.remat, remats[remats.index(compute.remat) + 1 :], "full", False),
        Lever("batch.micro_batches", batch.micro_batches, tuple(parts), "more, each of them smaller", False),
        Lever("mesh.context", sizes["context"], tuple(pieces), "more parts of the tokens of each row", True),
        Lever("mesh.fsdp", sizes["fsdp"], tuple(wider), "more, up to the number of devices", True),
        Lever("batch.rows", batch.rows, tuple(fewer), "fewer", False),
        Lever("optimizer.name", optimizer.name, lighter, "one that keeps less, such as muon, lion or adafactor", True),
        Lever("optimizer.ema", optimizer.ema, (None,) if optimizer.ema is not None else (), "None", True),
        Lever("compute.dtype", compute.dtype, half, "bfloat16", False),
    )
    return [lever for lever in table if lever.values]


def _more(recipe: Recipe, sizes: Mapping[str, int], axis: str, devices: int) -> list[int]:
    """Larger sizes of a mesh axis, which it takes of the copies of the model and which the model divides over."""
    now = sizes[axis]
    rest = devices // math.prod(size for name, size in sizes.items() if name not in (REMAINDER, axis))
    return [n for n in range(now + 1, rest + 1) if rest % n == 0 and n % now == 0 and _divides(recipe, sizes, axis, n)]


def _divides(recipe: Recipe, sizes: Mapping[str, int], axis: str, size: int) -> bool:
    changed = {**sizes, axis: size}
    return recipe.model.D % math.prod(changed[name] for name in axes_of("embed")) == 0


def in_words(recipe: Recipe, devices: int) -> str:
    """All of it, where nobody has counted what would be enough."""
    told = [f"{lever.setting}={lever.now}: {lever.words}" for lever in levers(recipe, devices)]
    told += _beside(recipe)
    return "change one of: " + "; ".join(told) if told else "it takes " + LAST


def enough(recipe: Recipe, devices: int, fits: Callable[[Recipe], bool], *, of_state: bool = False) -> str:
    """Which changes would be enough by themselves, at most three; else what all of them together are worth.

    `of_state`: asks only those that lessen the state.
    """
    found = []
    for lever in levers(recipe, devices):
        values = lever.values if lever.of_state or not of_state else ()
        value = next((value for value in values if fits(lever.on(recipe, value))), lever.now)
        found += [f"{lever.setting}={value} (now {lever.now})"] if value != lever.now else []
    if found:
        return "enough would be one of: " + "; ".join([*found[:TOLD], *_beside(recipe)])
    changed, together = recipe, []
    for setting in [lever.setting for lever in levers(recipe, devices) if lever.of_state or not of_state]:
        lever = next((lever for lever in levers(changed, devices) if lever.setting == setting), None)
        if lever is None:  # another change has done it
            continue
        changed = lever.on(changed, lever.values[-1])
        together.append(f"{setting}={lever.values[-1]}")
        if fits(changed):
            return "no one change is enough, but together: " + ", ".join([*together, *_beside(recipe)])
    return "; ".join([LAST, *_beside(recipe)])


def _beside(recipe: Recipe) -> list[str]:
    """What is no setting of pretraining: adapters, whose base keeps neither gradient nor moments."""
    whole = hasattr(recipe, "lora") and recipe.lora is None  # pyright: ignore[reportAttributeAccessIssue]
    return ["--train lora: adapters alone"] if whole else []
