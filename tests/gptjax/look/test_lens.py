"""gptjax.look.lens: the last layer says what the model says, and earlier ones what their states do."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gptjax.look.hook import read
from gptjax.look.lens import NEXT, logit_lens, next_tokens
from gptjax.nn.likelihood import logits_from
from gptjax.nn.model import Norm, head
from tests.tiny_run import random_model

IDS = list(range(4, 24))


@pytest.mark.parametrize("shape", ["grouped-query", "gpt2"])
def test_the_lens_of_the_last_layer_is_what_the_model_says(shape):
    """Tokens and shares, at the places asked for; the layer before says something else."""
    model = random_model(shape)
    seen = read(model._model, model.params, IDS, [0, 1], [0])
    said = next_tokens(model._model, model.params, seen.hidden_TD, IDS)
    places, targets = [3, 7, 19], [IDS[4], IDS[8], -1]
    lens = logit_lens(model._model, model.params, seen.state_CTD, places, targets)
    assert lens.ids_CPK.shape == (2, 3, 3)
    np.testing.assert_array_equal(lens.ids_CPK[1], said.ids_RK[places, :3])
    np.testing.assert_allclose(lens.prob_CPK[1], said.prob_RK[places, :3], atol=1e-5)
    np.testing.assert_allclose(lens.log_prob_CP[1, :2], said.log_prob_R[[3, 7]], atol=1e-5)
    assert np.isnan(lens.log_prob_CP[:, 2]).all()
    assert not np.array_equal(lens.ids_CPK[0], lens.ids_CPK[1])


def test_shares_are_those_of_all_scores():
    """Over more rows than are read at once, the likeliest first."""
    model = random_model()
    state_CTD = np.random.default_rng(0).normal(size=(2, 100, 32)).astype(np.float32)
    lens = logit_lens(model._model, model.params, state_CTD, range(100), [5] * 100)
    normed = Norm(model.config).apply({"params": model.params["final_norm"]}, jnp.asarray(state_CTD))
    logits_CTV = logits_from(normed, head(model.params), model.config.vocabulary)
    prob_CTV = np.asarray(jax.nn.softmax(logits_CTV, axis=-1))
    np.testing.assert_allclose(np.exp(lens.log_prob_CP), prob_CTV[..., 5], atol=1e-6)
    np.testing.assert_allclose(lens.prob_CPK, -np.sort(-prob_CTV, axis=-1)[..., :3], atol=1e-6)
    assert NEXT == 5
