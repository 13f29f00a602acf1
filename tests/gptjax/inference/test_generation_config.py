"""generation.json: how a model talks, written and read."""

import dataclasses
import json

import pytest
import tokenizers

from gptjax.inference.chat import TURNS
from gptjax.inference.generation_config import GenerationConfig
from gptjax.text.tokenizer import Tokenizer
from tests.tiny_run import bpe

CONFIG = GenerationConfig(
    ends=frozenset({2, 9}),
    begins_with_bos=False,
    encodes_prompt=True,
    chat_template="{{ messages[0].content }}曹操",
    names={"eos_token": "<|eos|>", "unk_token": "a"},
    generation={"temperature": 0.6, "suppress_tokens": [1, 2]},
)


@pytest.mark.parametrize("config", [CONFIG, GenerationConfig.of_runs(bpe()), GenerationConfig.of_turns(bpe())])
def test_what_is_read_is_what_was_written(tmp_path, config):
    config.save(tmp_path / "generation.json", bpe())
    read, roles = GenerationConfig.load(tmp_path / "generation.json", bpe().size)
    assert read == config
    assert roles == {"bos": "<|bos|>", "eos": "<|eos|>", "pad": "<|pad|>"}


def test_a_file_says_which_tokens_begin_end_and_fill(tmp_path):
    """Which a tokenizer.json does not: by their usual names they would be others, or none."""
    rules = tokenizers.Tokenizer.from_str(bpe().for_others(begins_with_bos=False))
    rules.add_special_tokens(["<turn>", "<end>"])
    tokenizer = Tokenizer(rules, {"bos": "<turn>", "eos": "<end>", "pad": "<end>"})
    tokenizer.save(tmp_path / "tokenizer.json")
    GenerationConfig.of_turns(tokenizer).save(tmp_path / "generation.json", tokenizer)
    config, roles = GenerationConfig.load(tmp_path / "generation.json", tokenizer.size)
    found, by_usual_names = (Tokenizer.load(tmp_path / "tokenizer.json", names) for names in (roles, {}))
    assert [found.bos, found.eos, found.pad] == [tokenizer.bos, tokenizer.eos, tokenizer.eos]
    assert by_usual_names.eos != tokenizer.eos
    assert config == GenerationConfig.of_turns(found)
    assert config.chat_template == TURNS


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"format": 2}, "written in format 2, this gptjax reads 1; use the gptjax that wrote it"),
        ({"format": None}, "written in format None"),
        ({"end": [1]}, "unknown field 'end'; did you mean 'ends'"),
        ({"ends": [2, 290]}, "ends has token id 290; the model has 290 tokens, from 0 on"),
        ({"ends": [-1]}, "ends has token id -1"),
        ({"ends": []}, r"ends is \[\]; must be a list of token ids"),
        ({"ends": [True]}, "must be a list of token ids"),
        ({"begins_with_bos": 1}, "begins_with_bos is 1; must be true or false"),
        ({"chat_template": ["x"]}, "must be a text, or null"),
        ({"names": {"eos_token": None}}, "names is .* must be an object of texts"),
        ({"generation": "x"}, "generation is 'x'; must be an object"),
        ({"roles": {"bos": "x"}}, r"roles has \['bos'\]; must have \['bos', 'eos', 'pad'\]"),
    ],
)
def test_what_is_wrong_with_a_file_is_named(tmp_path, changed, why):
    path = tmp_path / "generation.json"
    CONFIG.save(path, bpe())
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))
    with pytest.raises(ValueError, match=f"generation.json: .*{why}"):
        GenerationConfig.load(path, bpe().size)


NEEDED = {*(field.name for field in dataclasses.fields(GenerationConfig)), "roles"} - {"encodes_prompt"}


@pytest.mark.parametrize("name", sorted(NEEDED))
def test_a_field_that_is_missing_is_named(tmp_path, name):
    path = tmp_path / "generation.json"
    CONFIG.save(path, bpe())
    fields = json.loads(path.read_text())
    del fields[name]
    path.write_text(json.dumps(fields))
    with pytest.raises(ValueError, match=f"generation.json: field '{name}' is missing"):
        GenerationConfig.load(path, bpe().size)


def test_a_file_from_before_prompts_were_encoded_is_read_as_one_without(tmp_path):
    path = tmp_path / "generation.json"
    CONFIG.save(path, bpe())
    fields = json.loads(path.read_text())
    assert fields.pop("encodes_prompt") is True
    path.write_text(json.dumps(fields))
    read, _ = GenerationConfig.load(path, bpe().size)
    assert read == dataclasses.replace(CONFIG, encodes_prompt=False)
