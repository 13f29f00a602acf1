"""NEFTune's noise: how large it is, where it is, and that nothing but training has it."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from gptjax.config import ModelConfig
from gptjax.nn.embedding_noise import embedding_noise
from gptjax.nn.model import Transformer, draws, init_params
from tests.tiny_run import LLAMA

D, ALPHA = 256, 5.0
SEGMENTS = jnp.array([[1] * 4 + [2] * 25 + [3] * 100 + [0] * 31])
CONFIG = ModelConfig(T=32, vocabulary=50, **LLAMA | {"L": 1})


def test_its_deviation_is_alpha_by_the_root_of_three_times_length_and_width_of_each_segment_alone():
    """Packed ones differ by their own lengths: 1,024 to 25,600 numbers of each; none is beyond the bound."""
    noise_BTD = np.asarray(embedding_noise(jax.random.key(0), SEGMENTS, D, ALPHA))
    for segment, length in ((1, 4), (2, 25), (3, 100)):
        own = noise_BTD[np.asarray(SEGMENTS) == segment]
        assert own.shape == (length, D)
        bound = ALPHA / np.sqrt(length * D)
        np.testing.assert_allclose(own.std(), bound / np.sqrt(3), rtol=0.05)
        assert 0.98 * bound < np.abs(own).max() <= bound
        assert abs(own.mean()) < 4 * bound / np.sqrt(3 * own.size)
    assert not noise_BTD[np.asarray(SEGMENTS) == 0].any()


def test_it_is_another_one_for_another_key_and_twice_as_much_for_twice_alpha():
    first, other = (embedding_noise(jax.random.key(key), SEGMENTS, D, ALPHA) for key in (0, 1))
    assert not np.array_equal(first, other)
    np.testing.assert_allclose(embedding_noise(jax.random.key(0), SEGMENTS, D, 2 * ALPHA), 2 * first, rtol=1e-6)


def test_a_model_has_it_in_training_alone():
    """Deterministic, its hidden states are bit for bit those of a model without; in training they move with the key."""
    plain = Transformer(CONFIG)
    params = nn.unbox(init_params(plain, jax.random.key(0)))
    noisy = plain.clone(embedding_noise=ALPHA)
    assert not draws(plain)
    assert draws(noisy)
    tokens = jnp.arange(32)[None] % 50
    given = (tokens, jnp.ones_like(tokens), jnp.arange(32)[None], jnp.zeros_like(tokens, bool))

    def hidden(model, key=None):
        more = {} if key is None else {"deterministic": False, "rngs": {"dropout": jax.random.key(key)}}
        return np.asarray(jax.jit(lambda: model.apply({"params": params}, *given, **more)[0])())

    np.testing.assert_array_equal(hidden(noisy), hidden(plain))
    np.testing.assert_array_equal(hidden(plain, 0), hidden(plain))
    np.testing.assert_array_equal(hidden(noisy, 0), hidden(noisy, 0))
    assert not np.array_equal(hidden(noisy, 0), hidden(plain))
    assert not np.array_equal(hidden(noisy, 0), hidden(noisy, 1))
