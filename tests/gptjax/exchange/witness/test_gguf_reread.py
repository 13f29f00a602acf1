"""The witness of GGUF exports: it computes what transformers does, and names the first tensor that is wrong."""

import jax
import numpy as np
import pytest

from gptjax.exchange import gguf_model
from gptjax.exchange.gguf_blocks import WRITTEN
from gptjax.exchange.gguf_file import read_file, write_file
from gptjax.exchange.gguf_model import read_gguf, settings_of, shapes_of, tensors_of
from gptjax.exchange.gguf_tokenizer import tokenizer_settings
from gptjax.exchange.hf_config import model_of
from gptjax.exchange.hf_params import read_params
from gptjax.exchange.witness.gguf_reread import first_difference, logits
from gptjax.inference.generation_config import GenerationConfig
from tests.campaigns.golden_transformers import GOLDEN, kept
from tests.hf_models import CASES, GPT2, LLAMA, PROMPT, QWEN2, QWEN3, parameters, weights
from tests.tiny_run import bpe

# Without what files of ours cannot say: a scaling, windows, layers without positions.
SAID = {
    name: fields
    for name, fields in CASES.items()
    if "llama3" not in name and "window" not in name and name not in ("mistral", "smollm3")
}
WIDE = {**LLAMA, "hidden_size": 64, "intermediate_size": 96}


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN) as file:
        return dict(file)


def file_of(path, fields, kind="F32", change=lambda name, array: array):
    """As we write it, of the weights that the golden logits are of."""
    config, _ = model_of(fields)
    params = read_params(config, weights(fields))
    settings = settings_of(config) | tokenizer_settings(bpe(), GenerationConfig.of_runs(bpe()), config.vocabulary)
    entries = [(name, "F32" if len(shape) == 1 else kind, shape) for name, shape in shapes_of(config).items()]
    write_file(path, settings, entries, ((name, change(name, array)) for name, array in tensors_of(config, params)))
    return path


@pytest.mark.parametrize("name", SAID)
def test_its_logits_of_a_written_file_are_those_of_transformers(name, golden, tmp_path):
    [found] = logits(file_of(tmp_path / "model.gguf", SAID[name]), [PROMPT])
    wanted = golden[f"{name} logits"]
    assert np.abs(kept(found) - wanted).max() / np.abs(wanted).max() < 1e-5


@pytest.mark.parametrize("name", SAID)
def test_a_written_file_is_read_as_the_weights_that_it_was_made_of(name, tmp_path):
    found, (config, _) = read_gguf(file_of(tmp_path / "model.gguf", SAID[name])), model_of(SAID[name])
    assert found.config == config
    jax.tree.map(np.testing.assert_array_equal, found.params, read_params(config, weights(SAID[name])))
    assert first_difference(tmp_path / "model.gguf", parameters(SAID[name]), 301) is None


@pytest.mark.parametrize("kind", WRITTEN)
def test_every_type_is_as_near_as_it_can_be_and_a_value_off_by_a_step_is_seen(kind, tmp_path):
    assert first_difference(file_of(tmp_path / "model.gguf", WIDE, kind), parameters(WIDE), 301) is None
    _, tensors = read_file(tmp_path / "model.gguf")
    assert tensors.kinds["blk.1.ffn_up.weight"] == kind

    def off(name, array):
        return array + (array == array.flat[7]) * 2 * np.ptp(array) if name == "blk.1.ffn_up.weight" else array

    said = first_difference(file_of(tmp_path / "off.gguf", WIDE, kind, off), parameters(WIDE), 301)
    assert said is not None
    assert said.startswith("tensor 'blk.1.ffn_up.weight' differs from the source by up to")


@pytest.mark.parametrize(("fields", "part"), [(LLAMA, "attn_q"), (LLAMA, "attn_k"), (GPT2, "attn_qkv")])
def test_rows_in_another_order_are_seen(fields, part, tmp_path):
    """Rotary rows in halves, as Hugging Face has them; query, key and value in another order."""

    def moved(name, array):
        return np.roll(array, 1, axis=0) if f".{part}." in name else array

    said = first_difference(file_of(tmp_path / "model.gguf", fields, change=moved), parameters(fields), 301)
    assert f"tensor 'blk.0.{part}.weight' differs from the source" in (said or "")


def test_rotary_rows_lie_as_neighbours_for_llama_alone(tmp_path):
    for fields, moved in ((LLAMA, True), (QWEN2, False), (QWEN3, False)):
        _, tensors = read_file(file_of(tmp_path / "model.gguf", fields))
        rows, ours = tensors["blk.0.attn_q.weight"], parameters(fields)["layers/query"][0].T
        assert np.array_equal(rows, ours) != moved
        np.testing.assert_array_equal(gguf_model.halves(rows, 4) if moved else rows, ours)


def test_a_tensor_that_is_missing_or_of_no_use_is_named(tmp_path):
    wanted = parameters(LLAMA)
    assert "'layers/more' is in no tensor" in str(
        first_difference(file_of(tmp_path / "model.gguf", LLAMA), wanted | {"layers/more": wanted["head"]}, 301)
    )
    assert "has shape [301, 24], the source [300, 24]" in str(first_difference(tmp_path / "model.gguf", wanted, 300))
