"""The ids of a prompt are the same wherever it comes in: API, scores, answers, lm_eval, chat, exports."""

import dataclasses

import pytest

from gptjax.decoding.sampling import Sampling
from gptjax.evaluation.evaluate import answer
from gptjax.exchange.export import PROMPTS, _compare_tokens
from gptjax.harness import Adapter
from gptjax.inference.chat import Chat
from gptjax.inference.conversation import turn_ids, written
from gptjax.inference.generation_config import GenerationConfig
from gptjax.inference.language_model import LanguageModel
from gptjax.inference.prompt import encode_prompts, encode_rendered
from gptjax.inference.text_likelihood import encoded_pairs
from tests.tiny_run import bpe, random_model

TOKENIZER = bpe()
BOS = TOKENIZER.bos
TEXTS = ["the quick", "", "<|bos|>the", "曹操"]
BARE = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] + eos_token }}{% endfor %}"  # writes no BOS


def model_of(begins_with_bos: bool, template: str | None = None) -> LanguageModel:
    model = random_model()
    generation_config = dataclasses.replace(
        GenerationConfig.of_runs(TOKENIZER), begins_with_bos=begins_with_bos, chat_template=template
    )
    return LanguageModel(model.config, TOKENIZER, model.params, generation_config=generation_config)


@pytest.mark.parametrize("begins_with_bos", [True, False])
def test_a_plain_text_begins_with_bos_if_texts_do_and_an_empty_one_always(begins_with_bos):
    """`<|bos|>` typed is characters, behind the BOS."""
    first = [BOS] if begins_with_bos else []
    found = encode_prompts(TOKENIZER, model_of(begins_with_bos).generation_config, TEXTS)
    assert found == [[*first, *TOKENIZER.encode(text)] or [BOS] for text in TEXTS]
    assert [ids.count(BOS) for ids in found] == [begins_with_bos, 1, begins_with_bos, begins_with_bos]


@pytest.mark.parametrize("begins_with_bos", [True, False])
def test_every_way_in_reads_a_plain_text_as_the_same_ids(begins_with_bos, monkeypatch):
    model = model_of(begins_with_bos)
    wanted = encode_prompts(TOKENIZER, model.generation_config, TEXTS)
    assert [model.encode_prompt(text) for text in TEXTS] == wanted
    assert [before for before, _ in encoded_pairs(model, [(text, "\n") for text in TEXTS])] == wanted
    assert Adapter(model)._encode(TEXTS) == wanted
    read: list[list[int]] = []
    monkeypatch.setattr(
        "gptjax.evaluation.evaluate.continued", lambda _, starts, **__: read.extend(starts) or [""] * len(starts)
    )
    answer(model, [{"question": text, "answers": ["x"]} for text in TEXTS])
    assert read == wanted
    turn = Chat(model, Sampling(tokens=4)).context("hello")
    assert Chat(model, Sampling(tokens=4)).tokens("hello") == model.encode_prompt(turn)


@pytest.mark.parametrize("begins_with_bos", [True, False])
def test_an_export_encodes_its_texts_as_a_prompt_is(tmp_path, begins_with_bos):
    model = model_of(begins_with_bos)
    (tmp_path / "tokenizer.json").write_text(TOKENIZER.for_others(begins_with_bos), encoding="utf-8")
    assert _compare_tokens(tmp_path, model) == encode_prompts(TOKENIZER, model.generation_config, PROMPTS)


@pytest.mark.parametrize("template", [BARE, "{{ bos_token }}" + BARE])
@pytest.mark.parametrize("begins_with_bos", [True, False])
def test_what_a_template_writes_is_read_as_it_is_everywhere(begins_with_bos, template):
    """With as many BOS as it spells, whatever texts begin with; typed, one is characters."""
    model = model_of(begins_with_bos, template)
    messages = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hello <|bos|>"}]
    ids = encode_rendered(TOKENIZER, written(model, messages))
    assert ids.count(BOS) == template.count("bos_token")
    lm = Adapter(model)
    assert lm._encode([lm.apply_chat_template(messages)]) == [ids]
    assert turn_ids(model, Chat(model, Sampling(tokens=4)), "hello <|bos|>", "be brief") == ids
    [(before, after)] = encoded_pairs(model, [(lm.apply_chat_template(messages), " fox")], lm._encode)
    assert (before, after) == (ids, encode_rendered(TOKENIZER, written(model, messages) + " fox")[len(ids) :])


def test_a_template_that_writes_nothing_leaves_a_bos():
    assert encode_rendered(TOKENIZER, "") == [BOS]
