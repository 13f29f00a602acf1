"""Folders of Hugging Face with what people's folders have: fields at their defaults, ids beyond, spaces, pointers."""

import json
import warnings

import numpy as np
import pytest
import tokenizers
from tokenizers import pre_tokenizers

import gptjax
from gptjax.exchange.gguf_model import read_gguf
from gptjax.exchange.hf_config import model_of
from gptjax.exchange.hf_folder import read_description
from gptjax.text.tokenizer import ready_made
from tests.gguf_writer import gguf_bytes, settings_of, tensors_of
from tests.hf_models import GPT2, LLAMA, QWEN3, write_folder
from tests.tiny_run import bpe

DEFAULTS = {  # of transformers' PretrainedConfig, as old and new versions save it
    "tokenizer_class": "GPT2Tokenizer", "torchscript": False, "pruned_heads": {}, "use_bfloat16": False, "prefix": None,
    "tie_encoder_decoder": False, "cross_attention_hidden_size": None, "decoder_start_token_id": None,
    "sep_token_id": None, "finetuning_task": None, "tf_legacy_loss": False, "max_length": 20, "min_length": 0,
    "do_sample": False, "early_stopping": False, "num_beams": 1, "num_beam_groups": 1, "diversity_penalty": 0.0,
    "temperature": 1.0, "top_k": 50, "top_p": 1.0, "typical_p": 1.0, "repetition_penalty": 1.0, "length_penalty": 1.0,
    "no_repeat_ngram_size": 0, "encoder_no_repeat_ngram_size": 0, "bad_words_ids": None, "num_return_sequences": 1,
    "output_scores": False, "return_dict_in_generate": False, "forced_bos_token_id": None, "forced_eos_token_id": None,
    "remove_invalid_values": False, "exponential_decay_length_penalty": None, "suppress_tokens": None,
    "begin_suppress_tokens": None, "_commit_hash": "abc", "attn_implementation": "sdpa", "name_or_path": "x/y",
    "_attn_implementation": "eager", "is_encoder_decoder": False, "add_cross_attention": False,
    "chunk_size_feed_forward": 0, "problem_type": None, "base_model_tp_plan": None, "num_key_value_groups": None,
    "embedding_multiplier": None,
}  # fmt: skip
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff69d22e\nsize 12345\n"


def folder_of(path, fields=LLAMA, settings=None, rules=None):
    folder = write_folder(path / "model", fields)
    given = {"bos_token": "<|bos|>", "eos_token": "<|eos|>"} | (settings or {})
    (folder / "tokenizer_config.json").write_text(json.dumps(given))
    if rules is not None:
        (folder / "tokenizer.json").write_text(rules)
    return folder


@pytest.mark.parametrize("fields", [LLAMA, QWEN3, GPT2], ids=["llama", "qwen3", "gpt2"])
def test_fields_at_their_defaults_change_nothing(fields):
    for name, value in DEFAULTS.items():
        assert model_of(fields | {name: value}) == model_of(fields), name


@pytest.mark.parametrize(
    ("name", "value"),
    [("temperature", 0.6), ("num_beams", 4), ("pruned_heads", {"0": [1]}), ("bad_words_ids", [[1]]), ("max_length", 99),
     ("torchscript", True), ("embedding_multiplier", 2.0), ("tie_encoder_decoder", True)],
)  # fmt: skip
def test_a_field_that_asks_for_something_is_refused_by_its_name(name, value):
    with pytest.raises(ValueError, match=f"field '{name}'"):
        model_of(LLAMA | {name: value})


def test_ids_beyond_the_vocabulary_are_told_and_left_out(tmp_path):
    """As transformers takes them; a text that has no other end ends with the tokenizer's."""
    folder = folder_of(tmp_path, LLAMA | {"bos_token_id": 900, "pad_token_id": 301, "eos_token_id": [2, 901]})
    with pytest.warns(UserWarning, match="left out") as told:
        _, tokenizer, generation_config = read_description(folder)
    said = [str(one.message) for one in told]
    for name, id in (("bos_token_id", 900), ("pad_token_id", 301), ("eos_token_id", 901)):
        assert f"{folder}: {name} has {id}, beyond the model's vocabulary of 301; left out" in said
    assert (generation_config.ends, tokenizer.bos, tokenizer.pad) == ({2}, bpe().bos, bpe().pad)
    (folder / "config.json").write_text(json.dumps(LLAMA | {"eos_token_id": 900}))
    with pytest.warns(UserWarning, match="eos_token_id has 900"):
        assert read_description(folder)[2].ends == {bpe().eos}


def test_a_pad_that_only_the_settings_list_is_read(tmp_path):
    """The next id of the tokenizer becomes it, as in transformers; one beyond the model, or of no id, is left out."""
    listed = {"290": {"content": "[PAD]", "special": True, "normalized": False}}
    folder = folder_of(tmp_path, settings={"pad_token": "[PAD]", "added_tokens_decoder": listed})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _, tokenizer, generation_config = read_description(folder)
    assert (tokenizer.pad, tokenizer.size, generation_config.names["pad_token"]) == (290, 291, "[PAD]")
    assert 290 not in tokenizer.encode("[PAD]")
    for change in ({"added_tokens_decoder": {"301": listed["290"]}}, {}):
        (folder / "tokenizer_config.json").write_text(json.dumps({"pad_token": "[PAD]"} | change))
        with pytest.warns(UserWarning, match="PAD"):
            _, tokenizer, generation_config = read_description(folder)
        assert (tokenizer.pad, tokenizer.size, "pad_token" in generation_config.names) == (bpe().pad, 290, False)


def rules_with(cut):
    rules = tokenizers.Tokenizer.from_str(bpe().for_others(begins_with_bos=False))
    rules.pre_tokenizer = cut
    return rules.to_str()


@pytest.mark.parametrize(
    ("fields", "settings", "in_rules", "wanted"),
    [
        (LLAMA, {"tokenizer_class": "GPT2Tokenizer", "add_prefix_space": True}, False, True),
        (GPT2, {"tokenizer_class": "GPT2TokenizerFast", "add_prefix_space": True}, False, True),
        (GPT2, {"tokenizer_class": "RobertaTokenizerFast", "add_prefix_space": True}, False, True),
        (GPT2, {"add_prefix_space": True}, False, True),
        (GPT2, {}, False, False),
        (GPT2, {"tokenizer_class": "GPT2Tokenizer"}, True, False),
        (GPT2, {"tokenizer_class": "PreTrainedTokenizerFast", "add_prefix_space": True}, False, False),
        (LLAMA, {"tokenizer_class": "LlamaTokenizerFast", "add_prefix_space": False}, True, True),
        (LLAMA, {"add_prefix_space": True}, False, False),
    ],
)
def test_a_space_goes_in_front_of_a_text_where_transformers_puts_it(fields, settings, in_rules, wanted, tmp_path):
    """As transformers 5.24 encodes with each of these."""
    rules = rules_with(pre_tokenizers.ByteLevel(add_prefix_space=in_rules))
    _, tokenizer, _ = read_description(folder_of(tmp_path, fields, settings, rules))
    assert tokenizer.encode("hello") == bpe().encode(" hello" if wanted else "hello")
    assert tokenizer.encode(" hello") == bpe().encode(" hello")


def test_a_space_in_front_of_words_that_are_cut_otherwise_is_refused(tmp_path):
    """Digits one by one are the model's own, and a space in front of each would be none's."""
    digits = pre_tokenizers.Sequence([pre_tokenizers.Digits(True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    settings = {"tokenizer_class": "GPT2Tokenizer"}
    folder = folder_of(tmp_path, settings=settings, rules=rules_with(digits))
    _, tokenizer, _ = read_description(folder)
    assert len(tokenizer.encode("1111")) == 4
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"add_prefix_space": True}))
    with pytest.raises(ValueError, match="add_prefix_space true"):
        read_description(folder)


@pytest.mark.parametrize("file", ["model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json"])
def test_a_pointer_of_git_lfs_is_called_by_its_name(file, tmp_path):
    folder = folder_of(tmp_path)
    (folder / file).write_bytes(POINTER)
    with pytest.raises(ValueError, match=f"{file}: is a Git LFS pointer, not the file itself; run `git lfs pull`"):
        gptjax.load(folder)


def test_a_pointer_in_place_of_a_single_file_is_called_by_its_name_too(tmp_path):
    for name, read in (("model.gguf", read_gguf), ("tokenizer.json", ready_made), ("spm.model", ready_made)):
        (tmp_path / name).write_bytes(POINTER)
        with pytest.raises(ValueError, match=f"{name}: .*is a Git LFS pointer"):
            read(str(tmp_path / name)) if read is ready_made else read(tmp_path / name)


def test_a_type_of_gguf_that_is_not_read_is_called_by_its_name(tmp_path):
    tensors = tensors_of(LLAMA)
    tensors["output_norm.weight"] = (20, (32,), bytes(18))
    (tmp_path / "model.gguf").write_bytes(gguf_bytes(settings_of(LLAMA), tensors))
    with pytest.raises(
        ValueError, match=r"tensor 'output_norm.weight' is of type IQ4_NL; only F32, F16, .*Q6_K, BF16 are"
    ):
        read_gguf(tmp_path / "model.gguf")


def test_a_tensor_in_bfloat16_is_read(tmp_path):
    tensors = tensors_of(LLAMA)
    _, shape, raw = tensors["output.weight"]
    halves = (np.frombuffer(raw, "<u4") >> 16).astype("<u2")
    tensors["output.weight"] = (30, shape, halves.tobytes())
    (tmp_path / "model.gguf").write_bytes(gguf_bytes(settings_of(LLAMA), tensors))
    wanted = (halves.astype(np.uint32) << 16).view(np.float32).reshape(shape)
    found = read_gguf(tmp_path / "model.gguf").params["head"]
    np.testing.assert_array_equal(found[: len(wanted)], wanted)


@pytest.mark.parametrize("name", ["HuggingFaceTB/SmolLM2-135M", "hf://HuggingFaceTB/SmolLM2-135M", "gpt2"])
def test_the_name_of_a_model_on_a_hub_is_told_that_nothing_is_downloaded(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="no such run; nothing is downloaded: give the path of"):
        gptjax.load(name)
    (tmp_path / "runs").mkdir()
    with pytest.raises(ValueError, match="runs/first: no such run; runs holds no runs"):
        gptjax.load("runs/first")
