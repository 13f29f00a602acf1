"""Vectors of whole texts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gptjax.inference.language_model import LanguageModel
from gptjax.inference.scoring import states
from gptjax.nn.model import Transformer
from tests.tiny_run import random_model

TEXTS = [[1, 5, 9, 13, 4], [1, 7], [1, *range(10, 40)]]


def test_a_vector_is_the_mean_of_a_text_s_states():
    """Of each text by itself, however long the others are."""
    model = random_model()
    found_ID = model.mean_states(TEXTS)
    ids_1T = jnp.array(TEXTS[:1])
    read = jax.jit(states, static_argnums=(0, 4))
    hidden_1TD = read(Transformer(model.config), model.params, ids_1T, jnp.array([ids_1T.shape[1]]), False)
    np.testing.assert_allclose(found_ID[0], hidden_1TD[0].mean(axis=0), atol=1e-5)
    for ids, row_D in zip(TEXTS, found_ID, strict=True):
        np.testing.assert_allclose(model.mean_states([ids])[0], row_D, atol=1e-5)
    assert not np.allclose(found_ID[0], found_ID[1], atol=1e-2)


def test_broken_weights_and_texts_that_do_not_fit_are_refused():
    model = random_model()
    with pytest.raises(ValueError, match="text 0"):
        model.mean_states([[]])
    with pytest.raises(ValueError, match="text 1"):
        model.mean_states([[1], [5] * (model.config.T + 1)])
    broken = LanguageModel(model.config, model.tokenizer, jax.tree.map(lambda x: x * np.nan, model.params))
    with pytest.raises(ValueError, match="states of text 0 are not numbers"):
        broken.mean_states(TEXTS)
