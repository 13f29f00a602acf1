"""Heads travel: a run, an exported model and an adapter tell what the model told that they were made of."""

import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import gptjax
from gptjax.config import Lora
from gptjax.exchange import heads_file
from gptjax.exchange.peft_adapter import read_adapter
from gptjax.inference.language_model import LanguageModel
from gptjax.nn.lora import merged, without_adapters
from tests.headed_model import HEADS, TEXTS, headed_model
from tests.tiny_run import random_model, write_run


def told(model):
    """The answers of all heads, as one array."""
    found = [model.class_log_probs([model.encode_prompt(text) for text in TEXTS], n) for n in range(4)]
    return np.concatenate(found, axis=1)


def test_a_run_and_an_exported_model_tell_the_same(tmp_path):
    """Bit for bit, with every field of every head; and other heads tell something else."""
    model = headed_model()
    run = write_run(tmp_path / "run", model)
    gptjax.export(model, tmp_path / "exported")
    for folder in (run, tmp_path / "exported"):
        loaded = gptjax.load(folder)
        assert loaded.config.class_heads == HEADS
        np.testing.assert_array_equal(told(loaded), told(model))
        assert loaded.predict(TEXTS, "grade") == model.predict(TEXTS, "grade")
    louder = model.params | {"class_heads_query": model.params["class_heads_query"] * -3}
    other = LanguageModel(model.config, model.tokenizer, louder)
    changed = np.abs(told(other) - told(model)).max(axis=0) > 1e-3
    assert changed.tolist() == [False] * 5 + [True] + [False] * 2  # the head that reads a learnt mean


def test_an_adapter_takes_the_heads_along_that_were_trained_beside_it(tmp_path):
    """On its base, which has other heads or none, it tells what the run does; PEFT's own two files hold no head."""
    lora = Lora(rank=2, alpha=4.0, targets=("query", "down"))
    model = headed_model(lora)
    run = write_run(tmp_path / "tuned", model)
    gptjax.export_adapter(run, tmp_path / "adapter")
    params, config = merged(model.params, model.config)
    wanted = told(LanguageModel(config, model.tokenizer, params))
    heads = tmp_path / "adapter" / heads_file.NAMES
    assert [*json.loads(heads.read_text())] == [head.name for head in HEADS]
    assert all("lora" in name for name in load_file(tmp_path / "adapter" / "adapter_model.safetensors"))
    bare = random_model()
    poor = dataclasses.replace(bare.config, class_heads=HEADS[:1])
    bank = {"class_heads": jnp.ones((1, poor.D, 3)), "class_heads_bias": jnp.ones((1, 3))}
    bases = {"bare": bare, "headed": LanguageModel(poor, bare.tokenizer, bare.params | bank)}
    for name, base in bases.items():
        loaded = gptjax.load(write_run(tmp_path / name, base), adapter=tmp_path / "adapter")
        assert loaded.config.class_heads == HEADS
        np.testing.assert_allclose(told(loaded), wanted, atol=1e-5)
    plain = LanguageModel(dataclasses.replace(config, lora=None), model.tokenizer, without_adapters(model.params))
    assert np.abs(told(plain) - wanted).max() > 1e-2  # the adapters do something too
    for file in (heads_file.NAMES, heads_file.WEIGHTS):
        (tmp_path / "adapter" / file).unlink()
    assert gptjax.load(tmp_path / "headed", adapter=tmp_path / "adapter").config.class_heads == HEADS[:1]


@pytest.mark.fault(16)
def test_a_head_whose_file_does_not_fit_is_named(tmp_path):
    model = headed_model(Lora(rank=2, targets=("query",)))
    gptjax.export_adapter(write_run(tmp_path / "run", model), tmp_path / "adapter")
    path = tmp_path / "adapter" / heads_file.WEIGHTS
    tensors = load_file(path)
    save_file({name: array for name, array in tensors.items() if name != "grade.query"}, path)
    with pytest.raises(ValueError, match=r"class_heads.safetensors: tensor 'grade.query' is missing"):
        read_adapter(tmp_path / "adapter", random_model().config)
    save_file(tensors | {"mood.query": tensors["grade.query"]}, path)
    with pytest.raises(ValueError, match=r"tensor 'mood.query' is of no head"):
        read_adapter(tmp_path / "adapter", random_model().config)
