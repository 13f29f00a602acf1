"""A tiny model with an output head of every kind and pooling."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from gptjax.batch import ClassHead
from gptjax.config import Lora
from gptjax.inference.language_model import LanguageModel
from gptjax.nn.model import Transformer, init_params
from tests.tiny_run import random_model

HEADS = (
    ClassHead(name="mood", classes=("good", "bad", "so")),
    ClassHead(name="colours", classes=("red", "blue"), kind="labels", pool="mean", length=12, lowercase=True),
    ClassHead(name="grade", classes=("grade",), kind="values", pool="attention", causal=True, mean=5.0, scale=2.0),
    ClassHead(name="same", classes=("yes", "no"), two=True, pool="mean"),
    ClassHead(name="pairs", classes=("x", "y"), pair=True),
)
TEXTS = ["the lazy dog", "fox", "hello there the quick brown FOX jumps over the lazy dog"]


@functools.cache
def headed_model(lora: Lora | None = None) -> LanguageModel:
    """Its heads are random, and so are its adapters, where it has some."""
    bare = random_model()
    config = dataclasses.replace(bare.config, class_heads=HEADS, lora=lora)
    fresh = nn.unbox(jax.eval_shape(lambda: init_params(Transformer(config), jax.random.key(0))))  # its shapes alone
    draw = np.random.default_rng(0)

    def drawn(leaf, size=1.0):
        return jnp.asarray(draw.normal(size=leaf.shape) * size, jnp.float32)

    heads = {name: drawn(leaf) for name, leaf in fresh.items() if name.startswith("class_heads")}
    adapters = {name: drawn(leaf, 0.3) for name, leaf in fresh["layers"].items() if "_lora_" in name}
    params = {**bare.params, **heads, "layers": {**bare.params["layers"], **adapters}}
    return LanguageModel(config, bare.tokenizer, params)
