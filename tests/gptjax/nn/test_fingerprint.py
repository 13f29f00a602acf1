"""A fingerprint tells weights apart, and nothing else."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from gptjax.batch import ClassHead
from gptjax.config import Lora, ModelConfig
from gptjax.nn.fingerprint import fingerprint
from gptjax.nn.lora import fresh, with_adapters
from gptjax.nn.model import Transformer, init_params
from gptjax.sharding import make_mesh, shardings

CONFIG = ModelConfig(T=16, D=32, L=2, N=8, K=8, head_width=4, F=64, vocabulary=100, tied=False)
BOXED = init_params(Transformer(CONFIG), jax.random.key(0))
PARAMS = nn.unbox(BOXED)
HASH = fingerprint(PARAMS, CONFIG)


def changed(change):
    """The parameters with `change` of (name, leaf) in place of every leaf for which it gives one."""
    tree = jax.tree_util.tree_map_with_path(
        lambda path, leaf: change(jax.tree_util.keystr(path, simple=True, separator="/"), leaf), PARAMS
    )
    return fingerprint(tree, CONFIG)


def test_the_same_weights_have_the_same_fingerprint_wherever_they_lie():
    """On any mesh, as NumPy; beside adapters and class heads; with any padding of the token table."""
    assert len(HASH) == 32
    for mesh in (make_mesh(2, 2, 2), make_mesh(1, 8, 1)):
        assert fingerprint(jax.device_put(PARAMS, shardings(mesh, BOXED)), CONFIG) == HASH
    assert fingerprint(jax.tree.map(np.asarray, PARAMS), CONFIG) == HASH
    lora = dataclasses.replace(CONFIG, lora=Lora())
    assert fingerprint(with_adapters(PARAMS, fresh(lora, jax.random.key(1))), lora) == HASH
    heads = dataclasses.replace(CONFIG, class_heads=(ClassHead(name="topic", classes=("a", "b")),))
    bank = {"class_heads": jnp.ones((1, 32, 2)), "class_heads_bias": jnp.ones((1, 2))}
    assert fingerprint({**PARAMS, **bank}, heads) == HASH
    assert changed(lambda name, leaf: leaf.at[100:].set(7.0) if name in ("embedding", "head") else leaf) == HASH


@pytest.mark.parametrize("name", ["embedding", "head", "layers/query", "layers/query_norm/scale", "final_norm/scale"])
def test_one_changed_bit_or_two_swapped_values_are_another_fingerprint(name):
    def nudged(leaf):
        first = (0,) * leaf.ndim
        return leaf.at[first].set(jnp.nextafter(leaf[first], jnp.float32(9)))

    def swapped(leaf):  # scales are all 1 at first
        flat = leaf.reshape(-1)
        return flat.at[0].set(5.0).at[1].set(6.0), flat.at[0].set(6.0).at[1].set(5.0)

    assert changed(lambda path, leaf: nudged(leaf) if path == name else leaf) != HASH
    one, other = (
        changed(lambda path, leaf, k=k: swapped(leaf)[k].reshape(leaf.shape) if path == name else leaf) for k in (0, 1)
    )
    assert one != other
