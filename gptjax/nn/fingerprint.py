"""A hash of a model's weights: the same for the same weights, wherever and in how many parts they lie."""

import functools
import hashlib
from typing import Any

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict
from jaxtyping import Array, UInt32

from gptjax.config import ModelConfig
from gptjax.nn.lora import without_adapters

LANES = (0x9E3779B9, 0x85EBCA6B)  # an odd number for each of the two sums, which are 64 bits together


def fingerprint(params: Any, config: ModelConfig) -> str:
    """32 hexadecimal digits of the float32 weights, without adapters, class heads and the rows that pad a token table.

    Sums of mixed (bits, place) modulo 2^32, made where the weights lie, so no order changes them; for telling models
    apart, not against somebody who means to deceive.
    """
    digest = hashlib.sha256()
    for name, leaf in sorted(flatten_dict(without_adapters(params), sep="/").items()):
        if not name.startswith("class_heads"):
            rows = config.vocabulary if name in ("embedding", "head") else leaf.shape[0]
            sums = jax.device_get(_sums(leaf, rows)).tolist()
            digest.update(f"{name} {(rows, *leaf.shape[1:])} {sums}\n".encode())
    return digest.hexdigest()[:32]


@functools.partial(jax.jit, static_argnames="rows")
def _sums(leaf: Array, rows: int) -> UInt32[Array, "2"]:
    bits = jax.lax.bitcast_convert_type(leaf.astype(jnp.float32), jnp.uint32)
    place = jnp.zeros(leaf.shape, jnp.uint32)
    for axis, size in enumerate(leaf.shape):
        place = place * jnp.uint32(size) + jax.lax.broadcasted_iota(jnp.uint32, leaf.shape, axis)
    counts = jax.lax.broadcasted_iota(jnp.uint32, leaf.shape, 0) < rows
    mixed = (jnp.where(counts, _mixed(bits ^ _mixed(place * jnp.uint32(lane))), 0) for lane in LANES)
    return jnp.stack([jnp.sum(lane, dtype=jnp.uint32) for lane in mixed])


def _mixed(x: Array) -> Array:
    """Every bit of x into every bit, as MurmurHash3 ends."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> 16)
