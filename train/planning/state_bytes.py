"""Bytes of the state that one device holds, counted from shapes, dtypes and the table of the mesh; nothing is compiled.

Activations are not in it: the compiler, or `estimate.py`, says what they take.
"""

import functools
import math
import os
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import linen as nn
from jax.sharding import Mesh

from gptjax.config import ModelConfig
from gptjax.mesh_axes import axes_of
from gptjax.nn.model import Transformer, init_params
from train.planning.less_memory import enough
from train.recipe import OptimizerSpec, Recipe
from train.updates.optimizer import make_optimizer


class StateBytes(NamedTuple):
    """Of one device, by kind."""

    parameters: int
    gradients: int  # float32, of what trains: the norm over all of them comes before the first update
    moments: int  # what the optimizer keeps
    average: int  # of the parameters, where one is kept

    @property
    def total(self) -> int:
        return sum(self)

    @property
    def kept(self) -> int:
        """What there is between two steps."""
        return self.total - self.gradients

    def __str__(self) -> str:
        named = {"parameters": self.parameters, "gradients": self.gradients, "optimizer's moments": self.moments,
                 "average": self.average}  # fmt: skip
        return " + ".join(f"{name} {size / 1e9:.2f}" for name, size in named.items() if size) + " GB"


class _Leaf(NamedTuple):
    shape: tuple[int, ...]
    names: tuple[str | None, ...]  # logical, of its axes
    itemsize: int


def state_bytes(config: ModelConfig, spec: OptimizerSpec, steps: int, mesh: Mapping[str, int]) -> StateBytes:
    """`mesh`: devices along each axis. Counts what `train.step.abstract_state` would place, but a few scalars."""
    params, trained, moments = (sum(_part(leaf, mesh) for leaf in leaves) for leaves in _leaves(config, spec, steps))
    return StateBytes(params, trained, moments, 0 if spec.ema is None else params)


def _part(leaf: _Leaf, mesh: Mapping[str, int]) -> int:
    """Bytes of a leaf on one device."""
    ways = (math.prod(mesh[axis] for axis in axes_of(name)) if name is not None else 1 for name in leaf.names)
    return math.prod(-(-size // split) for size, split in zip(leaf.shape, ways, strict=True)) * leaf.itemsize


@functools.cache
def _leaves(config: ModelConfig, spec: OptimizerSpec, steps: int) -> tuple[tuple[_Leaf, ...], ...]:
    """Those of the parameters, of what trains, and of the optimizer's state."""

    def make() -> tuple[Any, Any, Any]:
        params = init_params(Transformer(config), jax.random.key(0))
        optimizer = make_optimizer(spec, steps, params)
        return params, optimizer.trainable(params), optimizer.init(params)

    return tuple(tuple(map(_leaf, jax.tree.leaves(tree, is_leaf=_is_box))) for tree in jax.eval_shape(make))


def _is_box(leaf: Any) -> bool:
    return isinstance(leaf, nn.LogicallyPartitioned)


def _leaf(leaf: Any) -> _Leaf:
    array = nn.unbox(leaf)
    names = tuple(leaf.names) if _is_box(leaf) else (None,) * array.ndim
    return _Leaf(array.shape, names, np.dtype(array.dtype).itemsize)


def check_state_fits(recipe: Recipe, config: ModelConfig, mesh: Mesh) -> None:
    """Raises ValueError where the state alone is more than the memory of a device that is here.

    On CPUs the devices of a process share the machine's memory.
    """
    room, of_what = _room(mesh)

    def total(other: Recipe) -> int:
        return state_bytes(config, other.optimizer, other.steps, other.mesh.over(mesh.size)).total

    if total(recipe) <= room:
        return
    found = state_bytes(config, recipe.optimizer, recipe.steps, recipe.mesh.over(mesh.size))
    raise ValueError(
        f"memory: the state of {config.parameters / 1e6:,.0f}M parameters takes {found.total / 1e9:.1f} GB a device "
        f"({found}), and {of_what}, activations not counted; "
        + enough(recipe, mesh.size, lambda other: total(other) <= room, of_state=True)
    )


def _room(mesh: Mesh) -> tuple[float, str]:
    """(bytes that one device of this process may fill, the same in words)."""
    device, count = mesh.local_devices[0], len(mesh.local_devices)
    limit = (device.memory_stats() or {}).get("bytes_limit")
    if limit is not None:
        return limit, f"{device.device_kind} has {limit / 1e9:.1f} GB for JAX"
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    shared = f", for {count} devices" if count > 1 else ""
    return memory / count, f"this machine has {memory / 1e9:.1f} GB{shared}"
