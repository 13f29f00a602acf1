"""gptjax.look.head_evidence: what heads tell is what predict tells, and what they read decides the evidence."""

import numpy as np
import pytest

from gptjax.look.asking import LEFT_OUT_WORK
from gptjax.look.head_evidence import heads_evidence
from tests.headed_model import headed_model

TEXT = "hello there fox"


@pytest.fixture(scope="module")
def evidence():
    model = headed_model()
    return heads_evidence(model, model._model, model.params, TEXT, LEFT_OUT_WORK)


def test_every_head_of_one_text_tells_what_predict_tells(evidence):
    """Classes, labels and a number; heads of two texts and of running text are named instead."""
    found, others = evidence
    assert [one.head for one in found] == ["mood", "colours", "grade"]
    assert others == ["same", "pairs"]
    for one in found:
        assert one.prediction == headed_model().predict([TEXT], one.head)[0]


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_token_counts_by_what_the_head_says_without_it(evidence, number):
    """Left out by hand; BOS and EOS stay."""
    model, one = headed_model(), evidence[0][number]
    ids = [piece.id for piece in one.pieces]
    whole = model.class_log_probs([ids], number)[0]
    best = int(whole.argmax())
    without = model.class_log_probs([ids[:2] + ids[3:]], number)[0]
    assert one.causes.left_out_T[2] == pytest.approx(whole[best] - without[best], abs=1e-5)
    assert np.isnan(one.causes.left_out_T[[0, -1]]).all()
    assert np.isfinite(one.causes.left_out_T[1:-1]).all()
    assert one.about == (model.config.class_heads[number].classes[best])


@pytest.mark.parametrize("number", [0, 1, 2])
def test_the_gradient_is_of_what_the_head_says(evidence, number):
    """Against a small change of one embedding's size, of a token that stands once in the text."""
    model, one = headed_model(), evidence[0][number]
    ids = [piece.id for piece in one.pieces]
    place = next(place for place in range(1, len(ids)) if ids.count(ids[place]) == 1)
    best = int(model.class_log_probs([ids], number)[0].argmax())

    def told(scale):
        table_VD = model.params["embedding"].at[ids[place]].multiply(scale)
        changed = type(model)(model.config, model.tokenizer, model.params | {"embedding": table_VD})
        return float(changed.class_log_probs([ids], number)[0, best])

    slope = (told(1.003) - told(0.997)) / 0.006
    assert one.causes.gradient_T[place] == pytest.approx(slope, rel=0.05, abs=2e-3)


def test_a_text_of_spaces_has_no_evidence():
    """For heads have nothing to read in it."""
    model = headed_model()
    found, others = heads_evidence(model, model._model, model.params, " \n", LEFT_OUT_WORK)
    assert not found
    assert "mood" in others


def test_as_many_tokens_are_left_out_as_are_asked_for():
    """0 tries none, 1 tries one, of the same model and text."""
    model = headed_model()
    for tried in (0, 1):
        found, _ = heads_evidence(model, model._model, model.params, TEXT, LEFT_OUT_WORK, tried)
        assert all(np.isfinite(np.array(one.causes.left_out_T, float)).sum() == tried for one in found)
