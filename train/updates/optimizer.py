"""From a gradient to an update: who trains and when, clipping, a direction by name, weight decay, the learning rate.

Every step changes a parameter p by -rate(step) x factor x (direction + weight decay x factor x p).
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict

from train.recipe import WEIGHT_DECAY, OptimizerName, OptimizerSpec
from train.updates.muon import muon
from train.updates.parameter_rules import (
    Rows,
    Values,
    along,
    in_parts,
    layers_of,
    put,
    resolved,
    rows_where,
    runs_alike,
    taken,
)

Params = Any  # nested dicts of arrays, or of Linen's boxes of them; None = a parameter that never trains
State = Any  # of every group of parameters, by its name, what optax keeps of it


class Optimizer(NamedTuple):
    """Pure functions; one compilation serves all steps, as step and cool-down are traced."""

    # the same tree, to differentiate by: None for what never trains, of a stack of layers the rows that do
    trainable: Callable[[Params], Params]
    merge: Callable[[Params, Params], Params]  # (trainable, params) -> params with what trains taken from `trainable`
    init: Callable[[Params], State]  # moments of what trains, float32, in boxes where the parameters are
    # (gradient, state, params, step, cooldown) -> (updates, state, norm); gradient and updates are like `trainable`,
    # norm is the gradient's over what trains at this step, before clipping
    update: Callable[[Params, State, Params, jax.Array, jax.Array], tuple[Params, State, jax.Array]]
    # lengths of the runs of layers in which the same parameters train; None = they do in all
    parts: tuple[int, ...] | None
    # as `merge`, for a Transformer with these `parts`: what is frozen then costs no gradient, and layers below the
    # lowest that trains no backward pass
    in_parts: Callable[[Params, Params], Params]


def make_optimizer(spec: OptimizerSpec, steps: int, params: Params, dtype: Any = jnp.float32) -> Optimizer:
    """The optimizer of a run of so many steps; of `params`, names and shapes count. `dtype`: of Muon's products.

    A parameter frozen for a share of the run trains from step ceil(share x steps) on. Until then its gradient counts
    as zero and its moments stay as they were made, so it thaws with fresh ones and with a bias correction of its own.
    So does each layer of a stack, where rules name single ones.
    Raises ValueError where the lists of regular expressions and the names do not fit, or nothing would train.
    """
    layers = layers_of(_flat(params))
    factors, decays, frozen = (resolved(field, getattr(spec, field), layers) for field in ("rates", "decays", "frozen"))
    trained = {name: rows_where([share < 1 for share in shares]) for name, shares in frozen.items() if min(shares) < 1}
    if not trained:
        raise ValueError("optimizer.frozen: every parameter has 1, so nothing would train; give some a share below 1")
    weight_decay = WEIGHT_DECAY.get(spec.name, 0.0) if spec.weight_decay is None else spec.weight_decay
    pieces, groups = _grouped(spec, steps, frozen, trained, dtype)
    rate_at = learning_rate(spec, steps)
    clip: Any = optax.clip_by_global_norm(spec.clip)

    def trainable(params: Params) -> Params:
        return _nested({name: taken(leaf, trained.get(name)) if name in trained else None
                        for name, leaf in _flat(params).items()})  # fmt: skip

    def merge(trainable: Params, params: Params) -> Params:
        new, old = _flat(trainable), _flat(params)
        return _nested(old | {name: put(old[name], rows, new[name]) for name, rows in trained.items()})

    def init(params: Params) -> State:
        flat = _flat(params)
        state = {
            key: group.direction.init({name: taken(flat[name], pieces[name, key].rows) for name in group.names})
            for key, group in groups.items()
        }
        return _named(state) if any(map(_is_box, flat.values())) else state

    def update(
        gradient: Params, state: State, params: Params, step: jax.Array, cooldown: jax.Array
    ) -> tuple[Params, State, jax.Array]:
        def thawed(start: int, new: Any, old: Any) -> Any:
            return new if start == 0 else jax.tree.map(lambda new, old: jnp.where(step >= start, new, old), new, old)

        old, whole = _flat(params), _flat(gradient)
        flat = {}
        for (name, key), piece in pieces.items():
            part = taken(whole[name], piece.places)
            flat[name, key] = thawed(groups[key].start, part, jnp.zeros_like(part))
        norm = optax.tree.norm(flat)
        clipped, _ = clip.update(flat, clip.init(flat))
        rate = rate_at(step, cooldown)
        moved, new_state = {}, {}
        for key, group in groups.items():
            its_gradient = {name: clipped[name, key] for name in group.names}
            its_params = {name: taken(old[name], pieces[name, key].rows) for name in group.names}
            directions, moments = group.direction.update(its_gradient, state[key], its_params)
            new_state[key] = thawed(group.start, moments, state[key])
            for name, direction in directions.items():
                rows, ndim = pieces[name, key].rows, direction.ndim
                if weight_decay * max(decays[name]) * _is_matrix(name):
                    direction += along(decays[name], rows, ndim, weight_decay) * its_params[name]
                by = -rate * along(factors[name], rows, ndim) * direction
                moved[name, key] = thawed(group.start, by, jnp.zeros_like(by))
        updates = dict.fromkeys(old) | {name: _together(name, pieces, moved) for name in trained}
        return _nested(updates), new_state, norm

    parts = runs_alike(trained, layers)

    def parted(trainable: Params, params: Params) -> Params:
        if parts is None:
            return merge(trainable, params)
        return _nested(in_parts(trained, parts, _flat(trainable), _flat(params)))

    return Optimizer(trainable, merge, init, update, parts, parted)


class _Piece(NamedTuple):
    """The layers of a parameter that thaw together."""

    rows: Rows  # of the parameter
    places: Rows  # the same, of its rows that train


def _grouped(
    spec: OptimizerSpec, steps: int, frozen: Values, trained: Mapping[str, Rows], dtype: Any
) -> tuple[dict[tuple[str, str], _Piece], dict[str, "_Group"]]:
    """(pieces by parameter and group, groups by name)."""
    pieces: dict[tuple[str, str], _Piece] = {}
    groups: dict[str, _Group] = {}
    for name, rows in trained.items():
        kind, shares = direction_of(spec, name), frozen[name]
        of_trained = shares if rows is None else [shares[row] for row in rows]
        for share in sorted(set(of_trained)):
            key = f"{kind}_from_{share or 0}"  # named by the share, so that a run may become longer
            group = _Group(thaw_step(share, steps), _DIRECTIONS[kind](spec, dtype), [])
            groups.setdefault(key, group).names.append(name)
            alike = ([other == share for other in each] for each in (shares, of_trained))
            pieces[name, key] = _Piece(*map(rows_where, alike))
    return pieces, groups


def _together(name: str, pieces: Mapping[tuple[str, str], _Piece], moved: Mapping[tuple[str, str], Any]) -> Any:
    """What the pieces of a parameter became, its rows in order."""
    own = [at for at in pieces if at[0] == name]
    if len(own) == 1:
        return moved[own[0]]
    order = np.argsort([place for at in own for place in pieces[at].places or ()])
    return jnp.concatenate([moved[at] for at in own])[order]


def by_thaw_step(state: State, steps: int) -> State:
    """The state as older checkpoints name it: groups by the step they thaw at, and those of one step together."""
    older: State = {}
    for key, group in state.items():
        name = _by_step(key, steps)
        older[name] = jax.tree.map(_joined, older[name], group, is_leaf=_is_dict) if name in older else group
    return older


def from_thaw_step(older: State, like: State, steps: int) -> State:
    """What `by_thaw_step` made, named like the state it was made of."""
    return {
        key: jax.tree.map(_part_of, group, older[_by_step(key, steps)], is_leaf=_is_dict) for key, group in like.items()
    }


def _by_step(key: str, steps: int) -> str:
    kind, share = key.split("_from_")
    return f"{kind}_from_{thaw_step(float(share), steps)}"


def thaw_step(share: float, steps: int) -> int:
    """The step from which a parameter trains that is frozen for a share of the run."""
    return math.ceil(share * steps - 1e-9)  # 0.07 x 100 is a little more than 7 in floating point


def _joined(one: Any, other: Any) -> Any:
    """By parameter, those of both; what is no parameter's, a counter, both have alike."""
    return one | other if _is_dict(one) else one


def _part_of(own: Any, joined: Any) -> Any:
    return {name: joined[name] for name in own} if _is_dict(own) else joined


def _is_dict(node: Any) -> bool:
    return isinstance(node, dict)


def direction_of(spec: OptimizerSpec, name: str) -> OptimizerName:
    """Muon is for the layers' matrices; tables and vectors have AdamW beside it."""
    if spec.name == "muon" and not (name.startswith("layers/") and _is_matrix(name)):
        return "adamw"
    return spec.name


def cooldown_steps(spec: OptimizerSpec, steps: int) -> int:
    """How many steps the fall of wsd takes; 0 for the other schedules."""
    return max(1, round(steps * spec.decay)) if spec.schedule == "wsd" else 0


def cooldown_start(spec: OptimizerSpec, steps: int) -> int:
    """The step from which wsd falls by plan, so that it ends with the run."""
    return steps - cooldown_steps(spec, steps)


def learning_rate(spec: OptimizerSpec, steps: int) -> Callable[[Any, Any], jax.Array]:
    """(step, from 0; the step from which wsd falls) -> the learning rate, a float32 scalar.

    After a linear warm-up that counts from 1, so that step 0 learns too: constant; linear or cosine, reaching `final` x
    peak at `steps`; wsd (warm-up, stable, decay: Hu et al. 2024, arXiv:2404.06395, section 4), a plateau and a linear
    fall to `final` x peak, where it stays. slanted: up for a tenth of the steps and down, from and to peak / 32, by
    Howard and Ruder 2018, arXiv:1801.06146, equation 3.
    """
    peak, warmup, final, fall = spec.learning_rate, spec.warmup, spec.final, cooldown_steps(spec, steps)

    def rate(step: Any, cooldown: Any) -> jax.Array:
        def done(start: Any, length: int) -> jax.Array:
            """Share of a phase that lies behind, from 0 to 1."""
            return jnp.clip((step - start) / jnp.float32(max(1, length)), 0, 1)

        up = done(-1, warmup)
        match spec.schedule:
            case "constant":
                return peak * up
            case "linear":
                return peak * up * (1 - (1 - final) * done(warmup, steps - warmup))
            case "cosine":
                cosine = (1 + jnp.cos(jnp.pi * done(warmup, steps - warmup))) / 2
                return peak * up * (final + (1 - final) * cosine)
            case "wsd":
                return peak * up * (1 - (1 - final) * done(cooldown, fall))
            case "slanted":
                cut = max(1, steps // 10)
                triangle = jnp.minimum(done(0, cut), 1 - done(cut, steps - cut))
                return peak * (1 + triangle * 31) / 32

    return rate


class _Group(NamedTuple):
    """Parameters that share a direction and the step from which they train."""

    start: int
    direction: Any  # an optax.GradientTransformation
    names: list[str]


# What a gradient is turned into before decay and learning rate.
# Sources: Sutskever et al. 2013 (momentum, nesterov); Duchi et al. 2011 (adagrad); Tieleman and Hinton 2012, lecture 6
# (rmsprop, here with Adam's bias correction: without, its first steps are 1 / sqrt(1 - beta2) times too long); Kingma
# and Ba 2015, arXiv:1412.6980 (adam); Loshchilov and Hutter 2019, arXiv:1711.05101 (adamw: adam, and the decay that
# all names here can have); Shazeer and Stern 2018, arXiv:1804.04235 (adafactor, without section 8's steps relative to
# the parameter's size, so that learning rates are like AdamW's; its bound on a step holds for a whole stack of layers);
# Chen et al. 2023, arXiv:2302.06675 (lion).
_DIRECTIONS: dict[OptimizerName, Callable[[OptimizerSpec, Any], Any]] = {
    "sgd": lambda spec, _: optax.identity(),
    "momentum": lambda spec, _: optax.trace(spec.beta1),
    "nesterov": lambda spec, _: optax.trace(spec.beta1, nesterov=True),
    "adagrad": lambda spec, _: optax.scale_by_rss(),
    "rmsprop": lambda spec, _: optax.scale_by_rms(spec.beta2, eps_in_sqrt=False, bias_correction=True),
    "adam": lambda spec, _: optax.scale_by_adam(spec.beta1, spec.beta2),
    "adamw": lambda spec, _: optax.scale_by_adam(spec.beta1, spec.beta2),
    "adafactor": lambda spec, _: optax.chain(optax.scale_by_factored_rms(), optax.clip_by_block_rms(1.0)),
    "lion": lambda spec, _: optax.scale_by_lion(spec.beta1, spec.beta2),
    "muon": lambda spec, dtype: muon(spec.beta1, dtype),
}


def _is_matrix(name: str) -> bool:
    """False for norms and biases, which never decay; by name, as stacking gives a layer's vectors a second axis."""
    return not name.endswith(("scale", "bias"))


def _flat(tree: Any) -> dict[str, Any]:
    return flatten_dict(tree, sep="/")


def _nested(flat: dict[str, Any]) -> Any:
    return unflatten_dict(flat, sep="/")


def _is_box(leaf: Any) -> bool:
    return isinstance(leaf, nn.LogicallyPartitioned)


def _named(state: State) -> State:
    """The state of boxed parameters with a name for every axis; None, on every device, where it is no parameter's."""

    def named(leaf: Any) -> Any:
        array = nn.unbox(leaf)
        if _is_box(leaf) and len(leaf.names) == array.ndim:
            return leaf
        return nn.LogicallyPartitioned(array, (None,) * array.ndim)  # adafactor's rows and columns; counters

    return jax.tree.map(named, state, is_leaf=_is_box)
