"""Replies are scored in a model's own way of talking, apart from the token that ends them."""

import dataclasses

import numpy as np
import pytest

from gptjax.inference.generation_config import GenerationConfig
from gptjax.inference.language_model import LanguageModel
from tests.tiny_run import bpe, random_model
from train.tuning import replies
from train.tuning.replies import Exchange, Speaker, compared, exchanges, measured


def said(*turns):
    return [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(turns)]


TALK = said("hello there", "the quick brown fox", "hello", "the lazy dog")


def in_turns(model):
    talks = GenerationConfig.of_turns(model.tokenizer)
    return LanguageModel(model.config, model.tokenizer, model.params, generation_config=talks)


def test_a_reply_has_the_same_tokens_in_lines_and_in_turns_and_another_end():
    lines, turns = Speaker(random_model()), Speaker(in_turns(random_model()))
    one, other = lines.turn(TALK[:2]), turns.turn(TALK[:2])
    assert one is not None
    assert other is not None
    assert one.reply == other.reply == bpe().encode(" the quick brown fox")
    assert (bpe().token(one.end), bpe().token(other.end)) == ("\n", "<|eos|>")
    assert one.prompt == other.prompt


def test_nats_are_those_of_the_text_behind_its_context():
    """The oracle is the API's own log-likelihood of a continuation."""
    model = random_model()
    found, _ = measured(Speaker(model), [Exchange("one", TALK[:2]), Exchange("one", TALK)], {})
    pairs = [
        ("A: hello there\nB:", " the quick brown fox"),
        ("A: hello there\nB: the quick brown fox\nA: hello\nB:", " the lazy dog"),
    ]
    answers = model.loglikelihood(pairs)
    tokens = sum(len(bpe().encode(text)) for _, text in pairs)
    np.testing.assert_allclose(found.nats, -sum(one.log_prob for one in answers) / tokens, rtol=1e-5)
    assert found.by_source == {"one": pytest.approx(found.nats)}
    assert found.replies == 2


def test_the_first_replies_of_all_come_before_the_second_of_any(monkeypatch):
    talks = [Exchange("one", TALK), Exchange("two", TALK)]
    every = exchanges(talks, bpe(), T=200)
    assert [(one.source, len(one.messages)) for one in every] == [("one", 2), ("two", 2), ("one", 4), ("two", 4)]
    monkeypatch.setattr(replies, "MEASURED_TOKENS", sum(len(bpe().encode(turn["content"])) for turn in TALK[:2]))
    assert [one.source for one in exchanges(talks, bpe(), T=200)] == ["one"]


def test_before_and_after_stand_side_by_side():
    model = random_model()
    talks = [Exchange("one", TALK[:2])]
    before, after = (
        measured(Speaker(model), talks, {"text": ["hello there"]}),
        measured(Speaker(in_turns(model)), talks, {}),
    )
    found = compared(before, after, talks)
    assert found["before"] == dataclasses.asdict(before[0])
    assert found["before"]["forgotten"].keys() == {"text"}
    [sample] = found["samples"]
    assert (sample["prompt"], sample["person"]) == ("hello there", "the quick brown fox")
    assert {"before", "after"} <= sample.keys()
