"""The learning rate over a run, and what decays."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from gptjax.config import ModelConfig
from gptjax.model import Transformer, init_params
from train.optimizer import decays, learning_rate, make_optimizer
from train.recipe import OptimizerSpec

GPT2 = ModelConfig(
    family="gpt2", T=8, D=16, L=2, N=2, K=2, head_width=8, F=32, activation="gelu", qk_norm=False, vocabulary=100
)


@pytest.mark.parametrize(
    ("schedule", "wanted"),
    [
        ("cosine", {0: 0.1, 9: 1.0, 10: 1.0, 55: 0.55, 100: 0.1}),
        ("wsd", {0: 0.1, 9: 1.0, 50: 1.0, 79: 1.0, 90: 0.55, 100: 0.1}),
    ],
)
def test_each_schedule_passes_through_its_golden_points(schedule, wanted):
    """Rates by step, of a peak of 1 over 100 steps with 10 of warm-up, ending at a tenth."""
    rate = learning_rate(OptimizerSpec(learning_rate=1.0, warmup=10, schedule=schedule, decay=0.2, final=0.1), 100)
    for step, value in wanted.items():
        assert float(rate(step)) == pytest.approx(value, abs=1e-6), step


@pytest.mark.parametrize(
    "config", [GPT2, ModelConfig(T=8, D=16, L=2, N=2, K=2, head_width=8, F=32, vocabulary=100)], ids=["gpt2", "llama"]
)
def test_decay_moves_matrices_and_leaves_norms_and_biases_though_layers_are_stacked(config):
    """A step of zero gradient shrinks every matrix and keeps every scale and bias, [L, D] included, bit for bit."""
    params = nn.unbox(init_params(Transformer(config), jax.random.key(0)))
    optimizer = make_optimizer(OptimizerSpec(learning_rate=0.1, warmup=0), 10)
    updates, _ = optimizer.update(jax.tree.map(jnp.zeros_like, params), optimizer.init(params), params)
    after = optax.apply_updates(params, updates)
    kinds = {True: 0, False: 0}
    for (path, old), new in zip(jax.tree_util.tree_leaves_with_path(params), jax.tree.leaves(after), strict=True):
        is_vector = old.ndim == 1 or (old.ndim == 2 and "layers" in str(path))
        assert np.array_equal(old, new) == is_vector, path
        kinds[is_vector] += 1
    assert min(kinds.values()) > 1


def test_boxed_and_plain_parameters_decay_alike():
    boxed = jax.eval_shape(lambda: init_params(Transformer(GPT2), jax.random.key(0)))
    assert jax.tree.leaves(decays(boxed)) == jax.tree.leaves(decays(nn.unbox(boxed)))


def test_a_long_gradient_is_clipped_and_a_short_one_is_not():
    """Adam hides scale, so the clipped length is read from its first moment."""
    params = {"w": jnp.ones((2, 2))}
    optimizer = make_optimizer(OptimizerSpec(clip=1.0, beta1=0.9), 200)
    for length, clipped in ((4.0, 1.0), (0.5, 0.5)):
        _, state = optimizer.update({"w": jnp.full((2, 2), length / 2)}, optimizer.init(params), params)
        first_moment = [
            leaf for path, leaf in jax.tree_util.tree_leaves_with_path(state) if ".mu" in jax.tree_util.keystr(path)
        ]
        assert float(jnp.linalg.norm(first_moment[0])) == pytest.approx(0.1 * clipped, rel=1e-5)
