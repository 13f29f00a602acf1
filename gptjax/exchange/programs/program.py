"""The two programs that a model leaves gptjax as: reading a prompt, and going on by a token; and their weights.

They are gptjax's own network, its shapes left open, lowered to StableHLO for every platform at once. Nothing is drawn
in them: ids and a cache go in, scores and the cache come out.
Axes: B rows  T tokens read  S cache slots  K kv heads  H head width  D residual  V vocabulary  L layers.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jax import export
from jaxtyping import Array, Float, Int

from gptjax.config import ModelConfig
from gptjax.nn.cached_attention import BLOCK, Cache
from gptjax.nn.decoding_weights import decoding_weights
from gptjax.nn.likelihood import logits_from
from gptjax.nn.model import Transformer, head
from gptjax.spelling import did_you_mean

PLATFORMS = ("cpu", "cuda", "tpu")
KNOWN = ("cpu", "cuda", "rocm", "tpu")  # that jax.export lowers for
SLOTS_MULTIPLE = BLOCK  # a cache has whole blocks of slots


def check_platforms(platforms: Sequence[str]) -> tuple[str, ...]:
    """Raises ValueError where one is not known, or where there is none, or not the one that the proof is run on."""
    for platform in platforms:
        if platform not in KNOWN:
            raise ValueError(f"platforms: {platform!r}{did_you_mean(str(platform), KNOWN)}")
    if not platforms:
        raise ValueError(f"platforms: none given; leave it out for {', '.join(PLATFORMS)}")
    if "cpu" not in platforms:
        raise ValueError(f"platforms: {' '.join(platforms)}; add cpu, where what was written is compared")
    return tuple(dict.fromkeys(platforms))


def weights_of(params: Any) -> dict[str, Array]:
    """The weights as the programs take them, float32: "embedding" [V,D], "layers_0/query" [out,in] and so on.

    Matrices of layers are turned, each an array of its own, since decoding on a CPU is fastest so. Output heads are not
    among them. V has the rows that pad the table.
    """
    network = {name: value for name, value in params.items() if not name.startswith("class_heads")}
    laid_out: dict[str, Any] = traverse_util.flatten_dict(
        decoding_weights(network, jnp.float32, laid_out=True), sep="/"
    )
    return {name: x[0] if name.startswith("layers_") else x for name, x in laid_out.items()}


def cache_of(config: ModelConfig, B: Any, S: Any) -> dict[str, jax.ShapeDtypeStruct]:
    """What a cache holds: "key_0" and "value_0" of the first layer, and so on, f32 [B,K,S,H]. An empty one is zeros."""
    of_layer = jax.ShapeDtypeStruct((B, config.K, S, config.H), np.float32)
    return {f"{kind}_{layer}": of_layer for kind in ("key", "value") for layer in range(config.L)}


def exported_programs(config: ModelConfig, params: Any, platforms: Sequence[str]) -> dict[str, export.Exported]:
    """`prefill` and `step`, of any number of rows, of tokens read and of blocks of slots.

    prefill(weights, tokens_BT, slot_B, length_B, cache): reads `length` tokens a row, padded on the right, into its
    slots from `slot` on; logits are of what follows the last. step(weights, token_B, slot_B, cache): one token a row.
    Both return (logits_BV f32, cache). Slots are numbered from 0, and so are positions.
    """
    config = dataclasses.replace(config, class_heads=(), dropout=0.0)
    B, T, S = export.symbolic_shape(f"b, t, {SLOTS_MULTIPLE}*n")
    weights = {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in jax.eval_shape(weights_of, params).items()}
    ids_BT, ids_B = (jax.ShapeDtypeStruct(shape, np.int32) for shape in ((B, T), (B,)))
    cache = cache_of(config, B, S)
    takes = {"prefill": (prefill, (ids_BT, ids_B, ids_B)), "step": (step, (ids_B, ids_B))}
    return {
        name: export.export(jax.jit(functools.partial(program, config)), platforms=platforms)(weights, *ids, cache)
        for name, (program, ids) in takes.items()
    }


def prefill(
    config: ModelConfig,
    weights: dict[str, Array],
    tokens_BT: Int[Array, "B T"],
    slot_B: Int[Array, "B"],
    length_B: Int[Array, "B"],
    cache: dict[str, Array],
) -> tuple[Float[Array, "B V"], dict[str, Array]]:
    hidden_BTD, cache = _read(config, weights, tokens_BT, slot_B, cache)
    hidden_B1D = jnp.take_along_axis(hidden_BTD, jnp.maximum(length_B - 1, 0)[:, None, None], axis=1)
    return _logits(config, weights, hidden_B1D), cache


def step(
    config: ModelConfig,
    weights: dict[str, Array],
    token_B: Int[Array, "B"],
    slot_B: Int[Array, "B"],
    cache: dict[str, Array],
) -> tuple[Float[Array, "B V"], dict[str, Array]]:
    hidden_B1D, cache = _read(config, weights, token_B[:, None], slot_B, cache)
    return _logits(config, weights, hidden_B1D), cache


def _read(config, weights, tokens_BT, slot_B, cache):
    """Padding is read too: what it leaves lies in slots that no token sees before they are written again."""
    model = Transformer(config, parts=(1,) * config.L, turned=True)
    place_BT = jnp.minimum(slot_B[:, None] + jnp.arange(tokens_BT.shape[1])[None], config.T - 1)
    one_BT = jnp.ones_like(tokens_BT)
    keys, values = (tuple(cache[f"{kind}_{n}"][None] for n in range(config.L)) for kind in ("key", "value"))
    hidden_BTD, found = model.apply(
        {"params": _nested(weights)}, tokens_BT, one_BT, place_BT, jnp.zeros_like(one_BT, bool),
        cache=Cache(keys, values), slot_B=slot_B,
    )  # fmt: skip
    assert isinstance(found, Cache)  # one was given
    pairs = {"key": found.k_LBKSH, "value": found.v_LBKSH}
    return hidden_BTD, {f"{kind}_{n}": x[0] for kind, stacks in pairs.items() for n, x in enumerate(stacks)}


def _logits(config, weights, hidden_B1D):
    table = head(weights)
    return logits_from(hidden_B1D, table, config.vocabulary, config.logit_cap)[:, 0, : config.vocabulary]


def _nested(weights):
    """As the network has them: every layer is a stack of one."""
    stacked = {name: x[None] if name.startswith("layers_") else x for name, x in weights.items()}
    return traverse_util.unflatten_dict(stacked, sep="/")
