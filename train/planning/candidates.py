"""Which meshes, batches and rematerialisations are tried: at most 24, and nothing that was said is changed."""

import dataclasses
import itertools
import math
from collections.abc import Collection, Iterator

from gptjax.config import ModelConfig
from gptjax.mesh_axes import MESH, REMAINDER, row_axes
from gptjax.sharding import check_divides
from train.launch.launching import check_fits
from train.mesh_spec import MeshSpec
from train.planning.chips import Machines
from train.recipe import BatchSpec, Recipe

MOST = 24
# Tokens of a step, above which no larger batch is tried: that of Llama 2 (Touvron et al. 2023, arXiv:2307.09288, 2.2).
LARGEST_STEP = 4 * 2**20


def candidates(recipe: Recipe, said: Collection[str], config: ModelConfig, machines: Machines) -> list[Recipe]:
    """The recipe with every mesh, batch and remat that may be tried; `said`: settings that stay, by dotted path.

    Raises ValueError, as training would, where none is legal.
    """
    if _mesh_is_said(said):
        check_fits(dataclasses.replace(recipe, batch=_divided(recipe, said, machines)), machines.chips, _why(machines))
    if "compute.unroll" not in said:  # which only a CPU is faster by
        recipe = dataclasses.replace(recipe, compute=dataclasses.replace(recipe.compute, unroll=False))
    remats = (recipe.compute.remat,) if "compute.remat" in said else ("none", "products", "full")
    found, mistakes = [], []
    for mesh, batch, remat in itertools.product(
        _meshes(recipe, said, machines), _batches(recipe, said, machines), remats
    ):
        compute = dataclasses.replace(recipe.compute, remat=remat)
        candidate = dataclasses.replace(recipe, mesh=mesh, batch=batch, compute=compute)
        try:
            check_legal(candidate, config, machines)
        except ValueError as mistake:
            mistakes.append(mistake)
        else:
            found.append(candidate)
    if not found:
        raise mistakes[0]
    assert len(found) <= MOST
    return found


def check_legal(recipe: Recipe, config: ModelConfig, machines: Machines) -> None:
    """Raises ValueError where the chips do not make the mesh, or the mesh does not divide rows or model."""
    check_fits(recipe, machines.chips, _why(machines))
    sizes = recipe.mesh.over(machines.chips)
    within = math.prod(size for axis, size in sizes.items() if axis != REMAINDER)
    if machines.family == "tpu" and machines.groups > 1 and machines.group % within:
        raise ValueError(
            f"mesh {sizes}: {within} chips beside its axis {REMAINDER} do not divide the {machines.group} of a slice; "
            f"only mesh.{REMAINDER} goes from slice to slice"
        )
    check_divides(sizes, config, rows=recipe.batch.micro_rows, tokens=recipe.row_length)


def _mesh_is_said(said: Collection[str]) -> bool:
    return any(f"mesh.{axis}" in said for axis in MESH)


def _why(machines: Machines) -> str:
    return f"--device {machines}"


def _meshes(recipe: Recipe, said: Collection[str], machines: Machines) -> Iterator[MeshSpec]:
    """Split over a group, a quarter of it or all nodes of GPUs, with heads and widths split too, and not at all; where
    there are fewer rows than chips, so that the chips which have none of their own share the tokens of each."""
    if _mesh_is_said(said):
        yield recipe.mesh
        return
    tensor = 4 if machines.group >= 16 else 2
    other = machines.chips if machines.family == "gpu" and machines.groups > 1 else machines.group // 4
    sizes = [(machines.group, 1), (other, 1), (machines.group // tensor, tensor), (1, 1)]
    for fsdp, tensor in dict.fromkeys(sizes):
        if fsdp and machines.chips % (fsdp * tensor) == 0:
            yield MeshSpec(fsdp=fsdp, tensor=tensor)
    rows = recipe.batch.micro_rows if "batch.micro_batches" in said else recipe.batch.rows
    if "batch.rows" in said and rows < machines.chips and machines.chips % rows == 0:
        fsdp = rows // machines.groups if rows % machines.groups == 0 else rows
        yield MeshSpec(fsdp=fsdp, context=machines.chips // rows)


def _batches(recipe: Recipe, said: Collection[str], machines: Machines) -> list[BatchSpec]:
    """Two of them: as many rows as were said, whole or in micro-batches; else a row or four for each part of them."""
    batch = recipe.batch
    if "batch.micro_batches" in said and "batch.rows" in said:
        return [batch]
    if "batch.rows" in said:
        parts = [n for n in (1, max(1, batch.rows // _row_ways(recipe, said, machines))) if batch.rows % n == 0]
        return [BatchSpec(rows=batch.rows, micro_batches=n) for n in dict.fromkeys(parts)]
    least = _divided(recipe, said, machines)
    more = dataclasses.replace(least, rows=least.rows * 4)
    return [least, more] if more.rows * recipe.row_length <= LARGEST_STEP else [least]


def _row_ways(recipe: Recipe, said: Collection[str], machines: Machines) -> int:
    """Parts that rows are split into: by the mesh that was said, else all chips, which serves every mesh."""
    sizes = recipe.mesh.over(machines.chips)
    return math.prod(sizes[axis] for axis in row_axes()) if _mesh_is_said(said) else machines.chips


def _divided(recipe: Recipe, said: Collection[str], machines: Machines) -> BatchSpec:
    """The recipe's batch, with as many rows more as divide over their parts."""
    each = _row_ways(recipe, said, machines) * recipe.batch.micro_batches
    return dataclasses.replace(recipe.batch, rows=math.ceil(recipe.batch.rows / each) * each)
