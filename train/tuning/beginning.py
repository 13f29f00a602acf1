"""The first state of a fine-tuning run: the base's parameters, and new ones where the base has none."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict

import gptjax
from train.assemble import Assembly
from train.step import State
from train.tuning.base import base_path
from train.tuning.tune_recipe import TuneRecipe


def tuned_from(parts: Assembly, recipe: TuneRecipe, say: Callable[[str], None]) -> State:
    """The state of step 0, float32, where the mesh wants it. Says which parameters come from the base, which are new.

    Precedence, here and in train/resume.py: a step that was saved; the base; chance.
    Raises ValueError where a parameter of the base has another shape.
    """
    state, path = parts.fresh(), base_path(recipe.base)
    source = _flat(gptjax.load(path, mesh=parts.mesh).params)
    begun: dict[str, Any] = {}
    new: list[str] = []
    for name, leaf in _flat(state.params).items():
        if name in source:
            begun[name] = _fitted(name, source[name], leaf)
        else:
            begun[name] = leaf
            new.append(name)
    left = sorted(source.keys() - begun.keys())
    told = f"{len(begun) - len(new)} parameters from {path}"
    told += f"; new: {_some(new)}" if new else ""
    say(f"{told}{f'; left behind: {_some(left)}' if left else ''}")
    params = unflatten_dict(begun, sep="/")
    ema = None if state.ema is None else jax.tree.map(jnp.copy, params)
    return state._replace(params=params, ema=ema)


def _fitted(name: str, given: jax.Array, wanted: jax.Array) -> jax.Array:
    """The base's array on the devices of the run's; a table of tokens loses rows that stand for none, or gains some."""
    if given.shape != wanted.shape and name in ("embedding", "head") and given.shape[1:] == wanted.shape[1:]:
        rows = min(len(given), len(wanted))
        given = wanted.at[:rows].set(given[:rows])
    if given.shape != wanted.shape:
        raise ValueError(f"base: its parameter {name} has the shape {given.shape}, the run's {wanted.shape}")
    return jax.device_put(given.astype(wanted.dtype), wanted.sharding)


def _flat(params: Any) -> dict[str, Any]:
    return dict(flatten_dict(params, sep="/"))


def _some(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
