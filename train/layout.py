"""How a step's rows lie on the devices that are here, where a run goes on with more or fewer of them than before.

The same command takes the same steps: the rows of a step stay what they are. What changes is how many devices each axis
of the mesh has, and into how many micro-batches the rows are cut: no device gets more rows at once than one of this run
has held, so that what went into its memory goes on doing so.
"""

import dataclasses
import itertools
import json
import math
from collections.abc import Mapping
from typing import NamedTuple

from gptjax.config import ModelConfig
from gptjax.mesh_axes import REMAINDER, mesh_axes, row_axes
from gptjax.sharding import check_divides
from train.mesh_spec import MeshSpec
from train.recipe import Recipe, to_json
from train.record.older import recipe_tree
from train.record.starts import Beginning

PADDING = 0.1  # of a step's rows, that may be empty for the sake of fewer micro-batches


class Layout(NamedTuple):
    """Where the rows of a step lie, and how many of them at a time."""

    mesh: dict[str, int]  # devices along each axis
    micro_batches: int
    micro_rows: int  # of each; where that is more than a step's rows in all, the last ones are empty
    most: float  # rows that a device of this run has held at once, so far

    @property
    def devices(self) -> int:
        return math.prod(self.mesh.values())

    def on(self, recipe: Recipe) -> Recipe:
        """The recipe as if it asked for this mesh, to count what a device must hold."""
        return dataclasses.replace(recipe, mesh=MeshSpec(**self.mesh))


def asked_for(recipe: Recipe, devices: int) -> Layout:
    """As the recipe has it, whether that can be made or not."""
    batch = recipe.batch
    return Layout(recipe.mesh.over(devices), batch.micro_batches, batch.micro_rows, batch.micro_rows / devices)


def layout_of(recipe: Recipe, config: ModelConfig, devices: int, before: Beginning | None) -> tuple[Layout, str]:
    """(how a recipe lies on so many devices, a sentence on what of that was otherwise before; "" where nothing was).

    `before` is the last start of the run. Where there was none, or it had another batch or mesh, the recipe counts as
    it stands, and what of it cannot be made is a mistake in what was asked.
    """
    asked = asked_for(recipe, devices)
    if before is None or before.layout is None or not _same(recipe, before, "batch", "mesh"):
        return asked, ""
    was = Layout(**before.layout)
    mesh = asked.mesh if _can_be(asked.mesh, config, devices) else _nearest(asked.mesh, config, devices)
    ways = math.prod(mesh[axis] for axis in row_axes())
    # other settings of computing may need more room than there was, and a start that had not enough is noted too
    most = was.most if _same(recipe, before, "compute") else min(was.most, asked.most)
    parts, rows = _cut(recipe, ways, int(most * devices + 1e-6))
    now = Layout(mesh, parts, rows, max(most, rows / devices))
    return now, "" if now == was else _told(was, now, recipe, config)


def _same(recipe: Recipe, before: Beginning, *parts: str) -> bool:
    """Whether the recipe of a start had the same settings of these parts."""
    then, now = recipe_tree(before.recipe or {}), recipe_tree(json.loads(to_json(recipe)))
    return all(then.get(part) == now[part] for part in parts)


def _can_be(mesh: Mapping[str, int], config: ModelConfig, devices: int) -> bool:
    """Whether these are all the devices, and the model divides over them."""
    ways = math.prod(mesh[axis] for axis in row_axes())
    try:
        check_divides(mesh, config, rows=ways, tokens=config.T)
    except ValueError:
        return False
    return math.prod(mesh.values()) == devices


def _nearest(wanted: Mapping[str, int], config: ModelConfig, devices: int) -> dict[str, int]:
    """The mesh over all the devices that is most like the one that is wanted, the later axes of the table first.

    An axis rather gets more devices than fewer: then what each of them holds of the state does not grow.
    """
    divisors = [n for n in range(1, devices + 1) if devices % n == 0]
    axes = [axis for axis in mesh_axes() if axis != REMAINDER]
    found = []
    for sizes in itertools.product(divisors, repeat=len(axes)):
        rest, over = divmod(devices, math.prod(sizes))
        mesh = {axis: dict(zip(axes, sizes, strict=True)).get(axis, rest) for axis in mesh_axes()}
        if not over and _can_be(mesh, config, devices):
            found.append(mesh)  # at least the one with all devices along the axis of copies

    def distance(mesh: Mapping[str, int]) -> list[tuple[bool, float]]:
        return [(mesh[axis] < wanted[axis], abs(math.log(mesh[axis] / wanted[axis]))) for axis in reversed(axes)]

    return min(found, key=distance)


def _cut(recipe: Recipe, ways: int, most: int) -> tuple[int, int]:
    """(micro-batches, rows of each) of a step: as the recipe has them where they divide over so many ways and are not
    more than `most`; else the fewest micro-batches of which at most PADDING is empty, and of those the least empty."""
    batch = recipe.batch
    if batch.micro_rows % ways == 0 and batch.micro_rows <= most:
        return batch.micro_batches, batch.micro_rows
    sizes = range(ways, max(ways, most) + 1, ways)
    cuts = [(math.ceil(batch.rows / size), size) for size in sizes]
    full = [cut for cut in cuts if math.prod(cut) <= (1 + PADDING) * batch.rows]
    return min(full, key=lambda cut: (cut[0], cut[1])) if full else min(cuts, key=lambda cut: (math.prod(cut), cut[0]))


def _told(was: Layout, now: Layout, recipe: Recipe, config: ModelConfig) -> str:
    def shown(mesh: Mapping[str, int]) -> str:
        return " x ".join(f"{axis}={mesh[axis]}" for axis in mesh if mesh[axis] > 1) or "of one"

    rows, parts = recipe.batch.rows, now.micro_batches
    empty = parts * now.micro_rows - rows
    told = f"{was.devices} devices before, {now.devices} now: a mesh {shown(now.mesh)} where it was {shown(was.mesh)}; "
    told += f"a step has its {rows} rows as before, in {parts} micro-batch{'es' * (parts > 1)} of {now.micro_rows}"
    told += f", whose last {empty} are empty" if empty else ""
    told += f": {now.micro_rows / now.devices:g} rows at once for a device, where {was.most:g} went into its memory"
    recut = (was.micro_batches, was.micro_rows) != (parts, now.micro_rows)
    return told + ("; dropout draws other masks than it would have" if recut and config.drops else "")
