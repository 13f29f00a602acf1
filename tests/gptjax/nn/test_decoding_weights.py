"""Weights as texts are written with say what the weights they were made of say."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gptjax.inference.language_model import LanguageModel
from gptjax.nn.decoding_weights import Int8, decoding_weights, rounded
from gptjax.nn.model import Transformer
from tests.tiny_run import SHAPES, random_model


@functools.partial(jax.jit, static_argnums=0)
def states(network, params):
    ids_BT = jnp.array([[5, 9, 3, 7, 100, 33]])
    place_BT = jnp.arange(6)[None]
    given = (ids_BT, place_BT * 0 + 1, place_BT, place_BT < 0)
    return network.apply({"params": params}, *given)[0].astype(jnp.float32)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_turned_weights_of_single_layers_give_the_states_of_the_stack(shape, dtype):
    """To rounding; a layer's matrices are apart and lie the other way."""
    model = random_model(shape)
    network, kind = Transformer(model.config, dtype=jnp.dtype(dtype)), jnp.dtype(dtype)
    expected = states(network, model.params)
    params = decoding_weights(model.params, kind, laid_out=True)
    assert params["layers_1"]["up"].shape == (1, model.config.F, model.config.D)
    assert params["layers_1"]["up"].dtype == kind
    found = states(network.clone(parts=(1, 1), turned=True), params)
    np.testing.assert_allclose(found, expected, atol=1e-5 if dtype == "float32" else 0.1)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("laid_out", [False, True])
def test_int8_weights_give_the_states_of_the_weights_rounded_to_them(shape, laid_out):
    """Laid out for a CPU or not; and not those of the weights before."""
    model = random_model(shape)
    network = Transformer(model.config)
    expected = states(network, rounded(model.params))
    params = decoding_weights(model.params, jnp.int8, laid_out=laid_out)
    found = states(network.clone(parts=(1, 1) if laid_out else None, turned=True), params)
    np.testing.assert_allclose(found, expected, atol=2e-3)
    assert np.abs(states(network, model.params) - expected).max() > 2e-2


def test_int8_rounds_each_row_to_its_own_largest_value():
    w_YX = np.array([[1.0, -127.0, 50.4], [0.1, 0.2, -0.05], [0, 0, 0]], np.float32)
    w, scale_Y = Int8.of(jnp.asarray(w_YX))
    np.testing.assert_allclose(scale_Y, [1.0, 0.2 / 127, 0], atol=1e-7)
    assert np.asarray(w)[:2].tolist() == [[1, -127, 50], [64, 127, -32]]
    assert np.asarray(w)[2].tolist() == [0, 0, 0]


def test_a_model_in_int8_writes_what_it_scores():
    """The tokens that it draws have the log-probabilities that it scores them with; its own weights stay."""
    exact = random_model()
    model = LanguageModel(exact.config, exact.tokenizer, exact.params, dtype="int8")
    [[sample]] = model.generate([5, 6, 7], temperature=0, tokens=20)
    [scores] = model.log_probs([[5, 6, 7, *sample.ids]])
    tolerance = 1e-3 if model._model.dtype == jnp.float32 else 0.3
    np.testing.assert_allclose(sample.log_probs, scores[2:], atol=tolerance)
    assert np.abs(exact.log_probs([[5, 6, 7, *sample.ids]])[0][2:] - scores[2:]).max() > 0.01
    assert model.params is exact.params
