"""Models of Hugging Face: scores beside those of transformers, and every field and tensor understood or refused."""

import json
import pickle
import re

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import pytest
from flax import linen as nn
from safetensors.numpy import save_file

import gptjax
import gptjax.nn.model
from gptjax.config import ModelConfig, RopeScaling
from gptjax.exchange.export import logits_of
from gptjax.exchange.gguf_model import halves
from gptjax.exchange.hf_config import fields_of, model_of
from gptjax.exchange.hf_folder import read_folder
from gptjax.exchange.hf_params import read_params, written
from gptjax.loading import place_model
from gptjax.nn.likelihood import logits_from
from gptjax.nn.model import Transformer, head, rotary_angles, rotate
from gptjax.sharding import make_mesh
from tests.campaigns.golden_transformers import CONTINUED, GOLDEN, TRAINED, kept, measured
from tests.hf_models import (
    CASES,
    GPT2,
    LLAMA,
    LLAMA3,
    MISTRAL,
    PROMPT,
    QWEN3,
    SMOLLM3,
    weights,
    without_head,
    write_folder,
)
from tests.tiny_run import bpe

KEYS = ("llama", "qwen3", "gpt2", "qwen2", "mistral", "smollm3")


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN) as file:
        return dict(file)


def scores(path, fields, tensors=None):
    """What our model of such a folder scores, as the golden file keeps it."""
    model = gptjax.load(write_folder(path, fields, tensors))
    [logits_TV] = logits_of(model, [PROMPT])
    return kept(logits_TV)


def distance(found, golden):
    """The largest difference as a share of the largest logit."""
    return np.abs(found - golden).max() / np.abs(golden).max()


@pytest.mark.parametrize("name", CASES)
def test_logits_equal_those_of_transformers(name, golden, tmp_path):
    """Within 1e-5 of the largest, which is ten times nearer than we promise."""
    assert distance(scores(tmp_path / "model", CASES[name]), golden[f"{name} logits"]) < 1e-5


@pytest.mark.parametrize("name", KEYS)
def test_greedy_continuations_are_those_of_transformers(name, golden, tmp_path):
    model = place_model(read_folder(write_folder(tmp_path / "model", CASES[name])), dtype="float32", mesh=None)
    [[sample]] = model.generate(PROMPT, temperature=0, tokens=CONTINUED)
    wanted = golden[f"{name} greedy"].tolist()
    assert list(sample.ids) == wanted[: len(sample.ids)]
    assert len(sample.ids) == CONTINUED or sample.ids[-1] == 2  # EOS


def interleaved(fields):
    """The weights with rotary rows as GGUF has them."""
    found = weights(fields)
    for name, heads in (("q_proj", "num_attention_heads"), ("k_proj", "num_key_value_heads")):
        for tensor in [tensor for tensor in found if name in tensor]:
            found[tensor] = np.ascontiguousarray(halves(found[tensor], fields[heads]))
    return found


MISTAKES = {
    "theta": (LLAMA, {"rope_theta": 701.0}, None),
    "rope scaling left out": (CASES["llama biases, no groups, llama3"], {"rope_scaling": None}, None),
    "rotary order": (LLAMA, {}, interleaved),
    "epsilon": (LLAMA, {"rms_norm_eps": 1e-6}, None),
    "epsilon of gpt2": (GPT2, {"layer_norm_epsilon": 1e-5}, None),
    "window": (MISTRAL, {"sliding_window": 10}, None),
    "positions": (SMOLLM3, {"no_rope_layers": [1, 1, 0]}, None),
    "tie": (LLAMA, {"tie_word_embeddings": True}, lambda fields: without_head(weights(fields))),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_wrong_setting_is_seen_in_the_logits(mistake, golden, tmp_path):
    """More than the 1e-4 that we promise; without the mistake, the test above sees less than a tenth of that."""
    fields, change, change_weights = MISTAKES[mistake]
    [name] = [name for name in CASES if CASES[name] is fields]
    tensors = change_weights(fields) if change_weights else None
    assert distance(scores(tmp_path / "model", fields | change, tensors), golden[f"{name} logits"]) > 2e-4


def test_norms_of_queries_and_keys_after_the_rotation_are_seen_in_the_logits(golden, tmp_path, monkeypatch):
    config, _ = model_of(QWEN3)

    def rotated_first(call, arguments, keywords, context):
        if context.module.name in ("query_norm", "key_norm"):
            [x_BTNH] = arguments
            B, T, _, _ = x_BTNH.shape
            places_BT = jnp.broadcast_to(jnp.arange(T)[None], (B, T))
            arguments = [rotate(x_BTNH, rotary_angles(config, places_BT))]
        return call(*arguments, **keywords)

    monkeypatch.setattr(gptjax.nn.model, "rotate", lambda x_BTNH, angle_BTh: x_BTNH)
    jax.clear_caches()
    with nn.intercept_methods(rotated_first):
        found = scores(tmp_path / "model", QWEN3)
    jax.clear_caches()
    assert distance(found, golden["qwen3 logits"]) > 2e-4


@pytest.mark.parametrize("name", TRAINED)
def test_gradients_are_those_of_transformers(name, golden):
    """Of every tensor, in length and along a random direction, within 1e-4 of the length."""
    config, _ = model_of(CASES[name])
    tokens_BT = jnp.array([PROMPT])
    one_BT = jnp.ones_like(tokens_BT)
    batch = (tokens_BT, one_BT, jnp.arange(len(PROMPT))[None], jnp.zeros_like(tokens_BT, bool))

    @jax.jit
    @jax.grad
    def gradients(params):
        hidden_BTD, _ = Transformer(config).apply({"params": params}, *batch)
        logits_BTV = logits_from(hidden_BTD, head(params), config.vocabulary)
        return optax.softmax_cross_entropy_with_integer_labels(logits_BTV[0, :-1], tokens_BT[0, 1:]).mean()

    found = measured(dict(written(config, gradients(read_params(config, weights(CASES[name]))))))
    wanted = golden[f"{name} gradients"]
    assert np.abs((found - wanted) / wanted[:, 1:]).max() < 1e-4


@pytest.mark.parametrize("name", CASES)
def test_what_is_written_is_what_was_read(name):
    """Tensors bit for bit; and the config says the same model again."""
    tensors = weights(CASES[name])
    config, _ = model_of(CASES[name])
    again = dict(written(config, read_params(config, tensors)))
    assert again.keys() == tensors.keys()
    for tensor in tensors:
        np.testing.assert_array_equal(again[tensor], tensors[tensor])
    read_again, _ = model_of(fields_of(config))
    assert fields_of(read_again) == fields_of(config)
    assert (read_again.rope_scaling, read_again.H) == (config.rope_scaling, config.H)


def test_half_precision_is_read_as_the_numbers_it_holds(tmp_path):
    """float16 and bfloat16 tensors; a double is refused."""
    config, _ = model_of(LLAMA)
    for dtype in (np.float16, ml_dtypes.bfloat16):
        rounded = {name: array.astype(dtype) for name, array in weights(LLAMA).items()}
        path = write_folder(tmp_path / dtype.__name__, LLAMA, rounded)
        wanted = read_params(config, {name: array.astype(np.float32) for name, array in rounded.items()})
        jax.tree.map(np.testing.assert_array_equal, read_folder(path).params, wanted)
    doubled = {name: array.astype(np.float64) for name, array in weights(LLAMA).items()}
    with pytest.raises(ValueError, match=r"'model.embed_tokens.weight' is of dtype float64; must be one of float32"):
        read_folder(write_folder(tmp_path / "doubled", LLAMA, doubled))


def test_names_and_buffers_of_old_versions_are_known(tmp_path):
    """GPT-2 as it was published has no prefix and stores its mask; a tied table may be stored twice."""
    config, _ = model_of(GPT2)
    wanted = read_params(config, weights(GPT2))
    bare = {name.removeprefix("transformer."): array for name, array in weights(GPT2).items()}
    bare["h.0.attn.bias"] = np.ones((1, 1, 48, 48), np.bool_)
    bare["lm_head.weight"] = bare["wte.weight"]
    jax.tree.map(np.testing.assert_array_equal, read_folder(write_folder(tmp_path / "a", GPT2, bare)).params, wanted)
    bare["lm_head.weight"] = bare["wte.weight"] + 1
    with pytest.raises(ValueError, match=r"'lm_head.weight' is not the embedding, though the config ties them"):
        read_folder(write_folder(tmp_path / "b", GPT2, bare))


def test_several_files_and_their_index_are_one_model(tmp_path):
    tensors = weights(QWEN3)
    folder = write_folder(tmp_path / "whole", QWEN3)
    whole = read_folder(folder)
    (folder / "model.safetensors").unlink()
    files = {name: f"part-{number % 3}.safetensors" for number, name in enumerate(tensors)}
    for file in set(files.values()):
        save_file({name: tensors[name] for name in tensors if files[name] == file}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))
    jax.tree.map(np.testing.assert_array_equal, read_folder(folder).params, whole.params)


def test_a_folder_spreads_over_a_mesh(tmp_path):
    fields = {**LLAMA, "num_key_value_heads": 4, "intermediate_size": 40}
    path = write_folder(tmp_path / "model", fields)
    mesh = make_mesh(fsdp=2, tensor=4)
    spread = gptjax.load(path, mesh=mesh)
    assert len(spread.params["embedding"].sharding.device_set) == 8
    jax.tree.map(np.testing.assert_array_equal, spread.params, gptjax.load(path).params)
    with pytest.raises(ValueError, match="is no run, so it has no step=3"):
        gptjax.load(path, 3)


@pytest.mark.parametrize(
    ("rope", "wanted"),
    [
        ({"rope_theta": 5.0}, (5.0, None)),
        ({"rope_theta": None}, (10_000.0, None)),
        ({"rope_theta": 5.0, "rope_scaling": {"type": "default"}}, (5.0, None)),
        ({"rope_theta": 5.0, "rope_scaling": {"type": "linear", "factor": 2.0}},
         (5.0, RopeScaling(kind="linear", factor=2.0))),
        ({"rope_theta": None, "rope_parameters": {"rope_type": "default", "rope_theta": 7.0}}, (7.0, None)),
        ({"rope_theta": 5.0, "rope_scaling": LLAMA3, "rope_parameters": {**LLAMA3, "rope_theta": 5.0}},
         (5.0, RopeScaling(original_T=24))),
    ],
)  # fmt: skip
def test_rotary_settings_are_read_by_their_old_and_new_names(rope, wanted):
    config, _ = model_of(LLAMA | rope)
    assert (config.rope_theta, config.rope_scaling) == wanted


def test_texts_begin_and_end_as_the_folder_says(tmp_path):
    """BOS by the tokenizer's own rule; EOS by the generation config, else the config, else the tokenizer."""
    folder = write_folder(tmp_path / "model", LLAMA)
    assert read_folder(folder).generation_config.begins_with_bos
    assert gptjax.load(folder).encode_prompt("hello") == [1, *bpe().encode("hello")]
    assert read_folder(folder).generation_config.ends == {2}
    (folder / "tokenizer.json").write_text(bpe().for_others(begins_with_bos=False))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 17], "temperature": 0.6}))
    found = read_folder(folder)
    assert (found.generation_config.begins_with_bos, found.generation_config.ends) == (False, {2, 17})
    assert found.generation_config.generation == {"temperature": 0.6}
    assert gptjax.load(folder).encode_prompt("hello") == bpe().encode("hello")


def test_an_end_that_is_null_is_left_to_the_config(tmp_path):
    folder = write_folder(tmp_path / "model", LLAMA | {"eos_token_id": [5, 6]})
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": None}))
    assert read_folder(folder).generation_config.ends == {5, 6}


def test_an_id_of_minus_one_is_none(tmp_path):
    """As early configs of Llama have it for PAD."""
    folder = write_folder(tmp_path / "model", LLAMA | {"pad_token_id": -1})
    assert read_folder(folder).tokenizer.pad == bpe().pad


def test_names_for_templates_are_those_that_are_given(tmp_path):
    """By tokenizer_config.json, else by special_tokens_map.json; an empty template is none."""
    folder = write_folder(tmp_path / "model", LLAMA)
    given = {"eos_token": "<|mask|>", "unk_token": {"content": "a"}}
    (folder / "special_tokens_map.json").write_text(json.dumps(given))
    (folder / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<|bos|>", "chat_template": ""}))
    found = read_folder(folder)
    wanted = {"bos_token": "<|bos|>", "eos_token": "<|mask|>", "unk_token": "a"}
    assert [*found.generation_config.names.items()] == [
        *wanted.items()
    ]  # the order, too: an export is the same the next time
    assert (found.tokenizer.eos, found.generation_config.chat_template) == (3, None)


def test_fields_of_published_configs_that_change_nothing_are_known():
    """Of GPT-2's sizes, DistilGPT2, early Llama 2 and fine-tunes."""
    gpt2 = {"n_special": 0, "predict_special_tokens": True, "output_past": True, "_num_labels": 1}
    llama = {
        "gradient_checkpointing": False,
        "max_sequence_length": 2048,
        "unsloth_fixed": True,
        "unsloth_version": "1",
    }
    for fields, more in ((GPT2, gpt2), (LLAMA, llama)):
        assert model_of(fields | more) == model_of(fields)


def test_special_tokens_are_those_that_the_folder_names(tmp_path):
    folder = write_folder(tmp_path / "model", LLAMA)
    assert read_folder(folder).tokenizer.pad == bpe().pad
    settings = {"bos_token": {"content": "<|mask|>"}, "eos_token": "<|eos|>", "pad_token": "<|eos|>"}
    (folder / "tokenizer.json").write_text(bpe().for_others(begins_with_bos=False))
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    tokenizer = read_folder(folder).tokenizer
    for same in (tokenizer, pickle.loads(pickle.dumps(tokenizer)), tokenizer.with_mask()):
        assert (same.bos, same.eos, same.pad) == (3, 2, 2)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"qkv_bias": True}, "Qwen3ForCausalLM cannot have model.qkv_bias=True, only False"),
        ({"nope_layers": (0,)}, "Qwen3ForCausalLM cannot have model.nope_layers=(0,), only ()"),
        ({"qk_norm": False, "window": 9, "mlp_bias": True}, "MistralForCausalLM cannot have model.mlp_bias=True"),
        ({"qk_norm": False, "qkv_bias": True, "nope_layers": (0,)}, "Qwen2ForCausalLM cannot have model.nope_layers"),
        ({"attention_cap": 5.0}, "model.attention_cap=5.0"),
        ({"logit_cap": 5.0}, "model.logit_cap=5.0"),
        ({"activation": "relu2"}, "model.activation='relu2', only 'swiglu'"),
        ({"mlp_bias": True}, "Qwen3ForCausalLM cannot have model.mlp_bias=True"),
        ({"D": 20, "N": 8, "head_width": 4, "qk_norm": False}, "LlamaForCausalLM wants model.D=20 to be a multiple"),
    ],
)
def test_what_no_class_of_theirs_computes_is_refused(change, said):
    fields = {"D": 16, "N": 4, "K": 4, "F": 24, "L": 1, "T": 32, "vocabulary": 40}
    assert fields_of(ModelConfig(**fields))["architectures"] == ["Qwen3ForCausalLM"]
    with pytest.raises(ValueError, match=f"^export: .*{re.escape(said)}"):
        fields_of(ModelConfig(**fields | change))
