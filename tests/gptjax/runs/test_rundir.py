"""A run directory from outside: which files it must hold, and that they agree."""

import dataclasses

import pytest
import tokenizers

import gptjax
from gptjax.config import save_model_config
from gptjax.inference.generation_config import GenerationConfig
from gptjax.runs.rundir import GENERATION, read_run
from gptjax.text.tokenizer import Tokenizer
from tests.tiny_run import bpe, random_model, write_run


@pytest.fixture
def run(tmp_path):
    return write_run(tmp_path / "run", random_model())


def test_a_run_talks_as_its_file_says_and_without_one_in_lines(run):
    assert read_run(run).generation_config == GenerationConfig.of_runs(bpe())
    assert gptjax.load(run).generation_config == GenerationConfig.of_runs(bpe())
    talks = dataclasses.replace(GenerationConfig.of_turns(bpe()), ends=frozenset({2, 9}))
    talks.save(run / GENERATION, bpe())
    assert read_run(run).generation_config == gptjax.load(run).generation_config == talks


def test_a_runs_tokenizer_has_the_bos_and_eos_that_its_file_names(run):
    rules = tokenizers.Tokenizer.from_str(bpe().for_others(begins_with_bos=False))
    tokenizer = Tokenizer(rules, {"bos": "<|mask|>", "eos": "<|pad|>", "pad": "<|pad|>"})
    assert read_run(run).tokenizer.eos != tokenizer.eos
    GenerationConfig.of_turns(tokenizer).save(run / GENERATION, tokenizer)
    found = read_run(run)
    assert [found.tokenizer.bos, found.tokenizer.eos] == [tokenizer.bos, tokenizer.eos]
    assert found.generation_config.ends == {tokenizer.pad}


def test_only_a_model_that_began_as_anothers_may_have_rows_without_a_token(run):
    """As published models have them; of a run that talks in lines it is a mistake. Fewer rows than tokens never fit."""
    config = dataclasses.replace(random_model().config, vocabulary=bpe().size + 6)
    save_model_config(config, run / "model.json")
    with pytest.raises(ValueError, match=r"tokenizer.json has 290 tokens, model.json says vocabulary=296"):
        read_run(run)
    GenerationConfig.of_turns(bpe()).save(run / GENERATION, bpe())
    assert read_run(run).config == config
    save_model_config(dataclasses.replace(config, vocabulary=bpe().size - 6), run / "model.json")
    with pytest.raises(ValueError, match="vocabulary=284; they are not of one run"):
        read_run(run)


def test_a_file_that_names_no_token_of_the_run_is_refused(run):
    tokenizer = Tokenizer(tokenizers.Tokenizer.from_str(bpe().for_others(begins_with_bos=False)))
    GenerationConfig.of_turns(tokenizer).save(run / GENERATION, tokenizer)
    path = run / GENERATION
    path.write_text(path.read_text().replace('"eos": "<|eos|>"', '"eos": "<end>"'))
    with pytest.raises(ValueError, match=r"tokenizer.json: .*no token that ends a text; looked for <end>"):
        read_run(run)
