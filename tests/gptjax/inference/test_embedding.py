"""Vectors of whole texts, and of their tokens: the states that the model's own pass has, pooled in one place."""

import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gptjax
from gptjax.exchange.hf_config import fields_of, model_of
from gptjax.exchange.safetensors_file import read_weights
from gptjax.exchange.witness import reread
from gptjax.inference import embedding
from gptjax.inference.embedding import layer_vectors
from gptjax.inference.language_model import LanguageModel
from gptjax.inference.scoring import states
from gptjax.nn.model import Transformer
from gptjax.sharding import make_mesh
from tests.hf_models import CASES, PROMPT, weights, write_folder
from tests.tiny_run import random_model

TEXTS = [[1, 5, 9, 13, 4], [1, 7], [1, *range(10, 40)]]
WORDS = ["the lazy dog", "fox", "hello there the quick brown fox jumps", "曹操 🦊", "over"]


def test_a_vector_is_the_mean_of_a_text_s_states():
    """Of each text by itself, to the last bit, however long the others are."""
    model = random_model()
    found_ID = model.mean_states(TEXTS)
    ids_1T = jnp.array(TEXTS[:1])
    read = jax.jit(states, static_argnums=(0, 4))
    hidden_1TD = read(Transformer(model.config), model.params, ids_1T, jnp.array([ids_1T.shape[1]]), False)
    np.testing.assert_allclose(found_ID[0], hidden_1TD[0].mean(axis=0), atol=1e-5)
    for ids, row_D in zip(TEXTS, found_ID, strict=True):
        np.testing.assert_array_equal(model.mean_states([ids])[0], row_D)
    assert not np.allclose(found_ID[0], found_ID[1], atol=1e-2)
    assert model.mean_states([]).shape == (0, model.config.D)


def test_broken_weights_and_texts_that_do_not_fit_are_refused():
    model = random_model()
    with pytest.raises(ValueError, match="text 0"):
        model.mean_states([[]])
    with pytest.raises(ValueError, match="text 1"):
        model.mean_states([[1], [5] * (model.config.T + 1)])
    broken = LanguageModel(model.config, model.tokenizer, jax.tree.map(lambda x: x * np.nan, model.params))
    with pytest.raises(ValueError, match="states of text 0 are not numbers"):
        broken.mean_states(TEXTS)


def numpys_states(folder, layers, both):
    """Of PROMPT, what NumPy's forward pass has after a norm behind so many layers; and that norm, to be applied."""
    config = json.loads((folder / "config.json").read_text())
    gpt2 = config["model_type"] == "gpt2"
    config["n_layer" if gpt2 else "num_hidden_layers"] = layers
    kept = read_weights(folder)
    ids_T = np.array(PROMPT) % config["vocab_size"]
    place_T = np.arange(len(ids_T))
    look_TS = (place_T[:, None] >= place_T) | both
    forward = reread._gpt2 if gpt2 else reread._llama
    hidden_TD, _ = forward(config, lambda name: kept[name].astype(np.float64), ids_T, place_T, look_TS)

    def norm(x_TD):
        x_TD = x_TD - x_TD.mean(-1, keepdims=True) if gpt2 else x_TD
        epsilon = config["layer_norm_epsilon" if gpt2 else "rms_norm_eps"]
        x_TD = x_TD / np.sqrt((x_TD**2).mean(-1, keepdims=True) + epsilon)
        names = ("transformer.ln_f.weight", "transformer.ln_f.bias") if gpt2 else ("model.norm.weight",)
        scale, *bias = (kept[name] for name in names)
        return x_TD * scale + (bias[0] if bias else 0)

    return hidden_TD, norm


@pytest.mark.parametrize(("name", "both"), [("qwen3", False), ("gpt2", True)])
def test_the_states_of_every_layer_are_numpys_own(name, both, tmp_path):
    """From the embeddings to the last norm, causally or from both sides, by the pass that exports are proven with."""
    config, _ = model_of(CASES[name])
    folder = write_folder(tmp_path / "model", fields_of(config), weights(CASES[name]))
    model = gptjax.load(folder)
    ids, layers = [id % model.config.vocabulary for id in PROMPT], ["embedding", *range(model.config.L), "final"]
    [found_CTD] = layer_vectors(model._model, model.params, [ids], layers, pool=None, bidirectional=both)
    assert found_CTD.shape == (model.config.L + 2, len(ids), model.config.D)
    for count, state_TD in enumerate(found_CTD[:-1]):
        wanted_TD, norm = numpys_states(folder, count, both)
        np.testing.assert_allclose(norm(state_TD.astype(np.float64)), wanted_TD, atol=1e-4)
    np.testing.assert_allclose(found_CTD[-1], wanted_TD, atol=1e-4)
    assert not np.allclose(found_CTD[1], found_CTD[2], atol=1e-2)


@pytest.mark.parametrize(("pool", "share"), [("mean", lambda n: 1.0), ("weighted", lambda n: n), ("last", None)])
def test_a_pool_is_made_of_the_token_s_states(pool, share):
    """The mean; the mean in which the n-th counts n times; the last: of as many as the text has, not of padding."""
    model = random_model()
    by_token = list(model.features(WORDS, layer=0, pool=None))
    for state_TD, found_D in zip(by_token, model.features(WORDS, layer=0, pool=pool), strict=True):
        weights_T = np.array([share(n) for n in range(1, len(state_TD) + 1)]) if share else np.eye(len(state_TD))[-1]
        np.testing.assert_allclose(found_D, weights_T @ state_TD / weights_T.sum(), atol=1e-5)
        assert found_D.dtype == np.float32


@pytest.mark.parametrize("layer", [1, "final"])
def test_a_vector_depends_on_its_text_alone_to_the_last_bit(layer, monkeypatch):
    """Not on the others, their order or how many are read together; on the layer and on what is seen it does."""
    model = random_model()
    asked = {"layer": layer, "bidirectional": True}
    together = np.stack([*model.features(WORDS, **asked)])
    backwards = np.stack([*model.features(WORDS[::-1], **asked)])[::-1]
    np.testing.assert_array_equal(together, backwards)
    np.testing.assert_array_equal(together[3], next(model.features([WORDS[3]], **asked)))
    monkeypatch.setattr(embedding, "BATCHES", 0)
    np.testing.assert_array_equal(together, np.stack([*model.features(WORDS, **asked)]))
    assert not np.allclose(together[3], next(model.features([WORDS[3]], layer=layer)), atol=1e-2)
    np.testing.assert_array_equal(
        next(model.features(["over it all"], length=2)), next(model.features(["over there"], length=2))
    )


def test_a_model_that_is_spread_over_devices_gives_the_same():
    """Within rounding, of a layer between too."""
    one = random_model()
    meshed = LanguageModel(
        one.config, one.tokenizer, jax.device_get(one.params), mesh=make_mesh(data=2, fsdp=2, tensor=2)
    )
    found, wanted = (np.stack([*model.features(WORDS[:2], layer=0)]) for model in (meshed, one))
    np.testing.assert_allclose(found, wanted, atol=1e-5 * np.abs(wanted).max())


def test_a_stream_is_read_as_it_is_asked_for(monkeypatch):
    """Of texts without end, some more than those that were asked for."""
    monkeypatch.setattr(embedding, "BATCHES", 0)
    monkeypatch.setattr(embedding, "ENCODED", 4)
    taken = itertools.count()
    found = random_model().features(f"fox {next(taken)}" for _ in itertools.count())
    for _ in range(6):
        next(found)
    assert next(taken) <= 12


def test_what_cannot_be_is_refused_at_once():
    """Before a vector is asked for."""
    with pytest.raises(ValueError, match="layer=2: this model has layers 0 to 1, 'embedding' before them"):
        random_model().features(WORDS, layer=2)
    with pytest.raises(ValueError, match="is one text; give a list"):
        random_model().features("one text")


def test_progress_is_told_of_all_batches_as_one():
    """Texts of several padded lengths; it ends at their number."""
    model, told = random_model(), []
    model.mean_states([[1] * n for n in (3, 40, 4, 60)], progress=lambda done, of: told.append((done, of)))
    assert told == [(n, len(told)) for n in range(1, len(told) + 1)]
    assert len(told) > 1


def test_a_text_that_cannot_be_read_is_named():
    """By its number; with a length a long one is read as far as that."""
    model = random_model()
    with pytest.raises(ValueError, match="text 1: is empty"):
        list(model.features(["fox", " \n"]))
    with pytest.raises(ValueError, match=r"text 1: has \d+ tokens; this model's context holds 64"):
        list(model.features(["fox", "fox " * 99]))
    assert len(list(model.features(["fox", "fox " * 99], length=64))) == 2
