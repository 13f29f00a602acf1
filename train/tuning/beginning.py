"""The first state of a fine-tuning run: the base's parameters, and new ones where the base has none.

Axes: C classes of a head.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict

import gptjax
from gptjax.batch import ClassHead
from train.assemble import Assembly
from train.step import State
from train.tuning.base import base_path
from train.tuning.tune_recipe import TuneRecipe
from train.tuning.what_trains import what_trains

BANK, QUERIES = "class_heads", "class_heads_query"  # parameters of output heads, a row each


def tuned_from(parts: Assembly, recipe: TuneRecipe, say: Callable[[str], None]) -> State:
    """The state of step 0, float32, where the mesh wants it. Says which parameters come from the base, which are new.

    Precedence, here and in train/resume.py: a step that was saved; the base; chance.
    Raises ValueError where a parameter of the base has another shape.
    """
    state, path = parts.fresh(), base_path(recipe.base)
    base = gptjax.load(path, mesh=parts.mesh)
    source = _flat(base.params)
    begun: dict[str, Any] = {}
    new: list[str] = []
    heads = heads_taken(base.config.class_heads, parts.config.class_heads)
    for name, leaf in _flat(state.params).items():
        if name.startswith(BANK):
            begun[name] = with_heads(name, leaf, source[name], heads) if name in source else leaf
        elif name in source:
            begun[name] = _fitted(name, source[name], leaf)
        else:
            begun[name] = leaf
            new.append(name)
    new += [f"head {head.name!r}" for head in parts.config.class_heads if head.name not in heads]
    left = sorted(name for name in source.keys() - begun.keys() if not name.startswith(BANK))
    left += [f"head {head.name!r}" for head in base.config.class_heads if head.name not in heads]
    taken = sum(name in source and not name.startswith(BANK) for name in begun)
    told = f"{taken} parameters from {path}"
    told += f", and its heads {_some([repr(name) for name in heads])}" if heads else ""
    told += f"; new: {_some(new)}" if new else ""
    say(f"{told}{f'; left behind: {_some(left)}' if left else ''}")
    for line in what_trains(recipe.optimizer, recipe.steps, state.params):
        say(line)
    params = unflatten_dict(begun, sep="/")
    ema = None if state.ema is None else jax.tree.map(jnp.copy, params)
    return state._replace(params=params, ema=ema)


class Taken(NamedTuple):
    """A head that the run has of its base: where it is in either's bank."""

    number: int  # in the run's
    of_base: int
    class_C: list[int]  # of the run's classes, their numbers in the base


def heads_taken(given: Sequence[ClassHead], wanted: Sequence[ClassHead]) -> dict[str, Taken]:
    """The heads that a run has of its base, by name: those that read and tell the same, their classes in any order.

    Of the others nothing is taken: their weights would stand for something else.
    """
    places = {head.name: number for number, head in enumerate(given)}
    found = {}
    for number, head in enumerate(wanted):
        old = given[places[head.name]] if head.name in places else None
        if old is not None and _about(old) == _about(head):
            class_C = [old.classes.index(name) for name in head.classes]
            found[head.name] = Taken(number, places[head.name], class_C)
    return found


def _about(head: ClassHead) -> dict[str, Any]:
    """What a head reads and tells, but at which length it cuts a text."""
    fields = {**dataclasses.asdict(head), "classes": sorted(head.classes)}
    del fields["length"]
    return fields


def with_heads(name: str, leaf: jax.Array, given: jax.Array, heads: Mapping[str, Taken]) -> jax.Array:
    """A parameter of the run's bank of heads, with the rows of those that are the base's."""
    for number, of_base, class_C in heads.values():
        if name == QUERIES:
            leaf = leaf.at[number].set(given[of_base])
        else:
            leaf = leaf.at[number, ..., : len(class_C)].set(given[of_base][..., jnp.array(class_C)])
    return leaf


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
