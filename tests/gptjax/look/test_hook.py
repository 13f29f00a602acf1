"""gptjax.look.hook: what is seen is what the model computes, and nobody who does not look notices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gptjax
import gptjax.look.hook as hook
from gptjax.exchange.hf_config import fields_of, model_of
from gptjax.exchange.witness import reread
from gptjax.inference.scoring import Row
from gptjax.look.hook import read
from gptjax.look.lens import next_tokens
from gptjax.nn.model import Block, Transformer
from tests.hf_models import CASES, PROMPT, weights, write_folder
from tests.tiny_run import random_model

IDS = list(range(4, 24))


@pytest.mark.parametrize("name", ["llama biases, no groups, llama3", "qwen3", "gpt2"])
def test_attention_is_numpys_own(name, tmp_path, monkeypatch):
    """Of every layer and head, read causally and from both sides; by the forward pass that exports are proven with."""
    config, _ = model_of(CASES[name])
    model = gptjax.load(write_folder(tmp_path / "model", fields_of(config), weights(CASES[name])))
    ids = [id % model.config.vocabulary for id in PROMPT]
    shares, plain = [], reread._shares
    for both in (False, True):

        def recorded(q_TNH, k_SNH, look_TS, both=both):
            shares.append(plain(q_TNH, k_SNH, look_TS | both))
            return shares[-1]

        monkeypatch.setattr(reread, "_shares", recorded)
        shares.clear()
        reread.logits(tmp_path / "model", [ids])
        seen = read(model._model, model.params, ids, range(3), range(4), both=both)
        assert len(shares) == 3
        np.testing.assert_allclose(seen.prob_CnTS, np.stack(shares), atol=1e-5, rtol=0)


@pytest.mark.parametrize("shape", ["grouped-query", "gpt2"])
def test_rows_sum_to_one_and_masked_places_are_zero(shape):
    """Exactly 0, causally above the diagonal; from both sides nothing is."""
    model = random_model(shape)
    for both in (False, True):
        prob_CnTS = read(model._model, model.params, IDS, [0, 1], range(4), both=both).prob_CnTS
        np.testing.assert_allclose(prob_CnTS.sum(axis=-1), 1, atol=1e-6)
        later_TS = np.triu(np.ones((20, 20), bool), 1)
        assert (prob_CnTS[..., later_TS] == 0).all() != both
        assert (prob_CnTS[..., ~later_TS] > 0).all()


def test_layers_and_heads_that_are_asked_for_are_those_of_all():
    """Of layer 1 and heads 3 and 0, in the order asked; the state behind it too."""
    model = random_model()
    every = read(model._model, model.params, IDS, [0, 1], range(4))
    some = read(model._model, model.params, IDS, [1], [3, 0])
    assert some.prob_CnTS.shape == (1, 2, 20, 20)
    np.testing.assert_allclose(some.prob_CnTS[0], every.prob_CnTS[1, [3, 0]], atol=1e-5)
    np.testing.assert_allclose(some.state_CTD[0], every.state_CTD[1], atol=1e-5)
    assert not np.allclose(every.prob_CnTS[0], every.prob_CnTS[1], atol=0.1)


def test_causal_scores_are_those_of_scoring():
    """The nats of every token, and the likeliest one; of the pass that is looked into."""
    model = random_model()
    seen = read(model._model, model.params, IDS, [0], [0])
    found = next_tokens(model._model, model.params, seen.hidden_TD, IDS)
    [scores] = model.score([Row(IDS, range(19), IDS[1:])])
    np.testing.assert_allclose(found.log_prob_R[:-1], scores.log_probs, atol=1e-5)
    np.testing.assert_array_equal(found.ids_RK[:-1, 0], scores.argmax)


def test_the_gradient_says_how_the_log_probability_moves(monkeypatch):
    """Against a small change of one embedding's size, by a table in which every place has a row of its own; also where
    each layer is computed anew."""
    model = random_model()
    seen = read(model._model, model.params, IDS, [0], [0], at=12, token=9, explains=True)
    assert (seen.gradient_T[13:] == 0).all()
    step, id = 1e-3, IDS[5]

    def log_prob(scale):
        table_VD = model.params["embedding"].at[id].multiply(scale)
        params = model.params | {"embedding": table_VD}
        return read(model._model, params, IDS, [0], [0], at=12, token=9).log_prob

    slope = (log_prob(1 + step) - log_prob(1 - step)) / (2 * step)
    assert seen.gradient_T[5] == pytest.approx(slope, rel=0.02)
    monkeypatch.setattr(hook, "KEPT_BYTES", 0)
    anew = read(model._model, model.params, IDS, [0], [0], at=12, token=9, explains=True)
    np.testing.assert_allclose(anew.gradient_T, seen.gradient_T, atol=1e-4)


def program(model):
    one_BT = jnp.ones((1, 8), jnp.int32)

    def run(params):
        return model.apply({"params": params}, one_BT, one_BT, one_BT, one_BT > 0, deterministic=False)[0].sum()

    return str(jax.make_jaxpr(jax.grad(run))(random_model().params))


@pytest.mark.parametrize("remat", ["none", "full"])
def test_a_pass_that_nobody_looks_into_is_the_pass_without_the_hook(remat, monkeypatch):
    """The program of a gradient, letter by letter, is that of a model whose hooks are taken out; and the attention that
    shows its probabilities is not called."""
    model = random_model()._model.clone(remat=remat)
    monkeypatch.setattr("gptjax.nn.model.attention_shares", None)
    hooked = program(model)
    monkeypatch.setattr(Block, "_show", lambda *_: None)
    monkeypatch.setattr(Transformer, "perturb", lambda self, name, value: value)
    assert program(model) == hooked
    monkeypatch.setattr(Transformer, "perturb", lambda self, name, value: value + 1)
    assert program(model) != hooked
