"""gptjax.look.looking: what `model.look` shows is what the model's other verbs say."""

import copy

import jax
import numpy as np
import pytest

from gptjax.inference.scoring import Row
from gptjax.sharding import make_mesh
from tests.headed_model import headed_model

TEXT = "狐 🦊 </script><b>x</b><!--"  # of test_look_page.py too, so that what it takes is compiled once


@pytest.fixture(scope="module")
def seen():
    return headed_model().look(TEXT)


def test_losses_are_those_of_log_probs_in_both_ways(seen):
    """Causally, and hidden in turn; the first token has none."""
    model, ids = headed_model(), list(seen.asked.ids)
    assert [way.view for way in seen.ways] == ["causal", "bidirectional"]
    for way in seen.ways:
        [log_probs] = model.log_probs([ids], view=way.view)
        assert way.nats_T is not None
        assert np.isnan(way.nats_T[0])
        np.testing.assert_allclose(-way.nats_T[1:], log_probs, atol=1e-5)


def test_each_way_shows_its_own_attention(seen):
    """From the left nobody sees what comes; from both sides all do."""
    causal, both = (way.prob_CnTS for way in seen.ways)
    assert causal.shape == both.shape == (2, 4, len(seen.pieces), len(seen.pieces))
    assert (np.triu(causal, 1) == 0).all()
    assert (both > 0).all()


def test_the_token_in_question_is_the_likeliest_or_the_one_named(seen):
    """With its log-probability, and what leaving a token out does to that."""
    model, ids = headed_model(), list(seen.asked.ids)
    assert seen.token == seen.next.ids_RK[-1, 0]
    assert np.exp(seen.log_prob) == pytest.approx(seen.next.prob_RK[-1, 0], abs=1e-5)
    named = model.look(TEXT, token=5)
    assert named.token == ids[5]
    assert named.log_prob == pytest.approx(-named.ways[0].nats_T[5], abs=1e-5)
    context = ids[:5]
    [without] = model.score([Row(context[:2] + context[3:], [3], [ids[5]])])
    assert named.causes.left_out_T[2] == pytest.approx(named.log_prob - without.log_probs[0], abs=1e-4)
    assert len(named.causes.gradient_T) == 5


def test_heads_tell_what_predict_tells(seen):
    assert [one.prediction for one in seen.evidence] == [
        headed_model().predict([TEXT], one.head)[0] for one in seen.evidence
    ]
    assert seen.heads_left_out == ["same", "pairs"]


def test_a_text_of_one_token_can_be_looked_at():
    """Nothing stands before it, so that nothing is left out, and it has no loss."""
    seen = headed_model().look(" ")
    assert len(seen.pieces) == 2  # BOS and a space
    assert np.isnan(seen.ways[0].nats_T[0])


def test_a_model_on_a_mesh_is_refused_with_the_remedy():
    model = copy.copy(headed_model())
    model.mesh = make_mesh(tensor=2, devices=jax.devices()[:2])
    with pytest.raises(ValueError, match="spread over a mesh; load it without one"):
        model.look("fox")


def test_scores_that_are_no_numbers_are_refused():
    """Where nothing else is scored: no token is left out, and none can be hidden."""
    model = copy.copy(headed_model())
    model.tokenizer = copy.copy(model.tokenizer)
    model.tokenizer.mask = None
    model._scored = model.params | {"head": model.params["head"] * np.nan}
    with pytest.raises(ValueError, match="are not numbers"):
        model.look(TEXT, leave_out=0)
