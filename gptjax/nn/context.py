"""Attention of rows whose tokens lie on several devices.

Every device gathers the keys and values of the whole row, a layer at a time, and answers for its share of the queries;
so any kernel serves, any rule, and packed documents and windows need no exchange of their own. A ring, which passes
keys on while it computes, would hold 1/c of them, but needs a kernel that is called piece by piece; with grouped keys
what is gathered is small beside the activations.

A causal row is dear at its end. So the queries of a row are cut into two pieces a device, and device d answers for
pieces d and 2c - 1 - d, which together see as many keys as any other two. Queries and results travel for that within
this file; to all others the tokens of a device are neighbours.
Source: Llama Team 2024, arXiv:2407.21783, section 3.3.2 (gathered keys, and the two pieces).
Axes: B batch  T query position  t those of one piece  S key position  N query heads  H head width.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array

from gptjax.mesh_axes import axes_of
from gptjax.nn.attention import Rule
from gptjax.sharding import gather, length_ways


def over_context(
    run: Callable[[Array, Array, Array, Rule], Array], q_BTNH: Array, k_BSKH: Array, v_BSKH: Array, rule: Rule
) -> Array:
    """Inside `per_device`: `run` of this device's share of the queries and of all keys; the results of its own tokens.

    `rule` is that of whole rows. Where a device's tokens are an odd number, they are its share.
    """
    ways = length_ways()
    if ways == 1:
        return run(q_BTNH, k_BSKH, v_BSKH, rule)
    k_BSKH, v_BSKH = (gather("length", x_BTKH, axis=1) for x_BTKH in (k_BSKH, v_BSKH))
    T = q_BTNH.shape[1]
    device = jax.lax.axis_index(axes_of("length"))
    if T % 2:
        return run(q_BTNH, k_BSKH, v_BSKH, rule.at(device * T + jnp.arange(T)))
    pieces = _even_then_odd(device, ways)
    place_T = jnp.concatenate([piece * (T // 2) + jnp.arange(T // 2) for piece in pieces])
    return _back(run(_sent(q_BTNH, ways), k_BSKH, v_BSKH, rule.at(place_T)), ways)


def _worker(piece: int, ways: int) -> int:
    """The device that answers for a piece of the queries; the one that holds it is piece // 2."""
    return min(piece, 2 * ways - 1 - piece)


def _even_then_odd(device: Array, ways: int) -> tuple[Array, Array]:
    """The two pieces that a device answers for."""
    early, late = device, 2 * ways - 1 - device
    return jnp.where(device % 2 == 0, early, late), jnp.where(device % 2 == 0, late, early)


def _sent(x_BTNH: Array, ways: int) -> Array:
    """From those who hold the tokens to those who answer for them: the even piece of each, then the odd one."""
    return _passed(x_BTNH, [[(d, _worker(2 * d + odd, ways)) for d in range(ways)] for odd in (0, 1)])


def _back(x_BTNH: Array, ways: int) -> Array:
    return _passed(x_BTNH, [[(_worker(2 * d + odd, ways), d) for d in range(ways)] for odd in (0, 1)])


def _passed(x_BTNH: Array, routes: list[list[tuple[int, int]]]) -> Array:
    """Each half of the tokens by its own route, (from, to)."""
    halves = jnp.split(x_BTNH, 2, axis=1)
    moved = [jax.lax.ppermute(half, axes_of("length"), route) for half, route in zip(halves, routes, strict=True)]
    return jnp.concatenate(moved, axis=1)
