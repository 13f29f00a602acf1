"""Log-probabilities of texts, from one side and from both, against one forward pass a token."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gptjax.likelihood import logits_from
from gptjax.model import head
from gptjax.scoring import log_probs
from tests.tiny_run import random_model

MODEL = random_model()
TEXTS = [[1, 40, 41, 42, 43], [1, 50], [1, *range(30, 60)]]
MASK = MODEL.tokenizer.mask


def reference(ids, visible):
    """Log-probabilities of every id at every position of one row alone."""
    tokens = jnp.array([ids])
    place = jnp.arange(len(ids))[None]
    hidden, _ = MODEL._model.apply(
        {"params": MODEL.params}, tokens, jnp.ones_like(tokens), place, jnp.full(tokens.shape, visible)
    )
    return jax.nn.log_softmax(logits_from(hidden, head(MODEL.params), MODEL.config.vocabulary))[0]


def test_causal_scores_are_those_of_one_text_alone():
    """Padding, batch and bucket change nothing."""
    for ids, found in zip(TEXTS, MODEL.log_probs(TEXTS), strict=True):
        wanted = reference(ids, visible=False)[np.arange(len(ids) - 1), np.array(ids[1:])]
        np.testing.assert_allclose(found, wanted, atol=1e-4)


def test_each_token_is_scored_with_only_itself_hidden():
    """Token j is predicted by the state before it, in a row in which all but j are seen from both sides."""
    found = MODEL.log_probs(TEXTS, view="both sides")
    for ids, scores in zip(TEXTS, found, strict=True):
        for j in range(1, len(ids)):
            corrupted = [*ids[:j], MASK, *ids[j + 1 :]]
            np.testing.assert_allclose(scores[j - 1], reference(corrupted, visible=True)[j - 1, ids[j]], atol=1e-4)


def test_a_later_token_moves_the_score_from_both_sides_alone():
    """Changing the last token leaves the causal score of the second, and moves the other."""
    one, other = [1, 40, 41, 42], [1, 40, 41, 43]
    causal = MODEL.log_probs([one, other])
    both = MODEL.log_probs([one, other], view="both sides")
    np.testing.assert_array_equal(causal[0][:2], causal[1][:2])
    assert abs(both[0][0] - both[1][0]) > 1e-3


@pytest.mark.parametrize(
    ("texts", "options", "said"),
    [
        ([[1]], {}, "text 0 has 1 tokens"),
        ([[1, 5], [1] * 65], {}, "text 1 has 65 tokens; from 2 to the context of 64"),
        ([[1, 5]], {"view": "both sides"}, "this vocabulary has none"),
    ],
)
def test_what_cannot_be_read_is_named(texts, options, said):
    """Too short, too long, no mask."""
    with pytest.raises(ValueError, match=said):
        log_probs(MODEL._model, MODEL.params, texts, **options)
