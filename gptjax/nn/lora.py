"""Adapters of a model: taken out, put in, made anew, and merged into the weights beside which they stand.

Axes: L layers  X width in  Y width out  r rank.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from gptjax.config import ModelConfig
from gptjax.nn.model import LORA_A, LORA_B, Transformer, init_params

Params = Any  # nested dicts of arrays


def adapters_of(params: Params) -> Params:
    """The adapters alone: {"layers": {"query_lora_a": [L, X, r], "query_lora_b": [L, r, Y], ...}}."""
    return {"layers": {name: leaf for name, leaf in params["layers"].items() if name.endswith((LORA_A, LORA_B))}}


def without_adapters(params: Params) -> Params:
    """All other parameters: those of the base, where only adapters were trained."""
    layers = {name: leaf for name, leaf in params["layers"].items() if not name.endswith((LORA_A, LORA_B))}
    return {**params, "layers": layers}


def with_adapters(params: Params, adapters: Params) -> Params:
    """The parameters with these adapters, in place of any that they had."""
    base = without_adapters(params)
    return {**base, "layers": {**base["layers"], **adapters["layers"]}}


def fresh(config: ModelConfig, key: jax.Array) -> Params:
    """Adapters before any step: A drawn within 1/sqrt(width), B zero, so that the model is its base bit for bit."""
    return jax.jit(lambda key: adapters_of(nn.unbox(init_params(Transformer(config), key))))(key)


def merged(params: Params, config: ModelConfig) -> tuple[Params, ModelConfig]:
    """(parameters W + scale A B, computed in float32; the config of a model without adapters).

    Without adapters, both as they are.
    """
    if config.lora is None:
        return params, config
    layers = without_adapters(params)["layers"]
    for name in config.adapted:
        a_LXr, b_LrY = params["layers"][f"{name}{LORA_A}"], params["layers"][f"{name}{LORA_B}"]
        product_LXY = jnp.matmul(a_LXr, b_LrY, precision="highest", preferred_element_type=jnp.float32)
        layers[name] = layers[name].astype(jnp.float32) + config.lora.scale * product_LXY
    return {**params, "layers": layers}, dataclasses.replace(config, lora=None)
