"""The witness of an export: it computes what transformers does, and names the first tensor that is wrong."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from gptjax.exchange.hf_config import fields_of, model_of
from gptjax.exchange.witness.reread import first_difference, logits
from tests.campaigns.golden_transformers import GOLDEN, kept
from tests.hf_models import CASES, GPT2, LLAMA, PROMPT, QWEN3, parameters, weights, write_folder


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN) as file:
        return dict(file)


def exported(path, fields, tensors=None):
    """A folder with the config as we write it."""
    config, _ = model_of(fields)
    return write_folder(path, fields_of(config), tensors or weights(fields))


@pytest.mark.parametrize("name", CASES)
def test_its_logits_are_those_of_transformers(name, golden, tmp_path):
    """Of two texts read together, the second as if it were alone."""
    first, second = logits(exported(tmp_path / "model", CASES[name]), [PROMPT[::-1], PROMPT])
    wanted = golden[f"{name} logits"]
    assert np.abs(kept(second) - wanted).max() / np.abs(wanted).max() < 1e-5
    assert not np.allclose(first, second)


@pytest.mark.parametrize("name", CASES)
def test_it_finds_nothing_wrong_with_the_weights_themselves(name, tmp_path):
    assert first_difference(exported(tmp_path / "model", CASES[name]), parameters(CASES[name]), 301) is None


@pytest.mark.parametrize("name", ["llama biases, no groups, llama3", "qwen3", "gpt2 untied, width of 33"])
def test_any_tensor_that_differs_by_one_value_is_named(name, tmp_path):
    """Each in turn; and in moving it some the others are as they were."""
    fields, folder = CASES[name], exported(tmp_path / "model", CASES[name])
    whole, wanted = weights(fields), parameters(fields)
    for tensor, array in whole.items():
        spoilt = array.copy()
        spoilt.flat[-1] += 0.5
        save_file(whole | {tensor: spoilt}, folder / "model.safetensors")
        assert first_difference(folder, wanted, 301) == f"tensor {tensor!r} differs from the source by up to 0.5"


def test_tensors_of_another_shape_none_of_a_model_or_left_out_are_named(tmp_path):
    folder, wanted = exported(tmp_path / "model", LLAMA), parameters(LLAMA)
    whole = load_file(folder / "model.safetensors")
    save_file(whole | {"model.norm.weight": np.ones(7, np.float32)}, folder / "model.safetensors")
    assert first_difference(folder, wanted, 301) == "tensor 'model.norm.weight' has shape [7], the source [24]"
    save_file({name: whole[name] for name in whole if name != "lm_head.weight"}, folder / "model.safetensors")
    assert first_difference(folder, wanted, 301) == "the source's 'head' is in no tensor"
    save_file(whole | {"model.layers.0.mlp.router": np.ones(1, np.float32)}, folder / "model.safetensors")
    with pytest.raises(ValueError, match=r"'model.layers.0.mlp.router' is none of a model's"):
        first_difference(folder, wanted, 301)


@pytest.mark.parametrize(
    ("fields", "change", "said"),
    [
        (LLAMA, {"tie_word_embeddings": True}, "tensor 'lm_head.weight' is of no use to this config"),
        (CASES["llama tied, heads of 8, linear"], {"tie_word_embeddings": False}, "tensor 'lm_head.weight' is missing"),
        (LLAMA, {"attention_bias": True}, "tensor 'model.layers.0.self_attn.q_proj.bias' is missing"),
        (GPT2, {"n_layer": 4}, "tensor 'transformer.h.3.ln_1.weight' is missing"),
        (QWEN3, {"num_hidden_layers": 2}, r"tensor 'model.layers.2.input_layernorm.weight' is of no use"),
    ],
)
def test_a_config_that_asks_for_other_tensors_is_refused(fields, change, said, tmp_path):
    folder = exported(tmp_path / "model", fields)
    config = json.loads((folder / "config.json").read_text())
    logits(folder, [PROMPT])
    (folder / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(ValueError, match=said):
        logits(folder, [PROMPT])
