"""What is drawn has the form that was asked for, and no form takes the server's time or memory."""

import json
import os
import re
import signal

import numpy as np
import pytest

from gptjax.decoding.engine import Ended, Engine, Failed, Grammar, Request, Said
from gptjax.decoding.sampling import Sampling
from gptjax.serving import grammar as forms
from gptjax.serving.grammar import grammar_of
from tests.tiny_run import random_model

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 5},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "tags": {"type": "array", "items": {"enum": ["red", "blue"]}, "maxItems": 2},
    },
    "required": ["name", "age", "tags"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def model():
    return random_model(T=256)


@pytest.fixture(scope="module")
def engine(model):
    return Engine(model, rows=8)


def written(engine, model, form, samples, tokens=200, temperature=1.0):
    """(text, why it ended) of each sample."""
    heard = [[] for _ in range(samples)]
    requests = [
        Request(
            prompt=tuple(model.encode_prompt("A: hello")),
            sampling=Sampling(tokens=tokens, temperature=temperature),
            sample=number,
            grammar=grammar_of(form, model),
        )
        for number in range(samples)
    ]
    engine.run(requests, [events.append for events in heard])
    return [("".join(event.text for event in events if isinstance(event, Said)), events[-1]) for events in heard]


def test_thirty_of_thirty_are_json_of_the_schema(engine, model):
    found = written(engine, model, {"type": "json_schema", "schema": SCHEMA}, 30)
    assert len({text for text, _ in found}) > 20
    for text, last in found:
        assert last == Ended("stop")
        value = json.loads(text)
        assert list(value) == ["name", "age", "tags"]
        assert 0 <= value["age"] <= 150
        assert {*value["tags"]} <= {"red", "blue"}


def test_properties_come_in_the_order_of_the_schema(engine, model):
    """Also where the same schema was asked for in another order just before."""
    for names in (["b", "a"], ["a", "b"]):
        schema = {"type": "object", "properties": {name: {"type": "null"} for name in names}, "required": names}
        form = {"type": "json_schema", "schema": schema | {"additionalProperties": False}}
        assert [list(json.loads(text)) for text, _ in written(engine, model, form, 1)] == [names]


def test_a_regular_expression_is_matched_to_its_end(engine, model):
    for text, last in written(engine, model, {"type": "regex", "regex": "(yes|no), [a-c]{2,4}!"}, 8):
        assert re.fullmatch("(yes|no), [a-c]{2,4}!", text)
        assert last == Ended("stop")


def test_any_object_is_json_as_far_as_it_was_written(engine, model):
    for text, last in written(engine, model, {"type": "json_object"}, 8, tokens=30):
        assert text.startswith("{")
        assert last == Ended("length") or isinstance(json.loads(text), dict)


def bits(grammar):
    return {*np.flatnonzero(np.unpackbits(grammar.allowed().view(np.uint8), bitorder="little")).tolist()}


def test_no_special_token_but_the_end_is_allowed_and_that_where_the_form_may_end(model):
    grammar, tokenizer = grammar_of({"type": "regex", "regex": "a+.*"}, model), model.tokenizer
    assert isinstance(grammar, Grammar)
    assert grammar.allowed().shape == (-(-model.config.V // 32),)
    [a] = tokenizer.encode("a")
    assert a in bits(grammar)
    assert not bits(grammar) & tokenizer.special_ids
    grammar.take(a)
    assert bits(grammar) & tokenizer.special_ids == model.generation_config.ends
    assert max(bits(grammar)) < tokenizer.size
    assert not grammar.ended


DEEP: dict = {"type": "integer"}
for _ in range(200):
    DEEP = {"type": "object", "properties": {"a": DEEP}, "required": ["a"]}
AND = {"allOf": [{"type": "string", "pattern": f".*{chr(97 + place)}.{{{20 + place}}}"} for place in range(20)]}


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        (AND, "takes more than 1 s|needs more than 512 MiB"),
        ({"type": "integer", "multipleOf": 999983}, "takes more than 1 s"),
        (DEEP, "recursion limit"),
        ({"enum": [f"value {number}" for number in range(20_000)]}, "has 288900 characters; at most 131072"),
        ({"type": "text"}, "text"),
        ({"$ref": "https://example.com/schema"}, "example.com"),
    ],
)
def test_a_hostile_or_broken_schema_is_refused_by_name(model, schema, said):
    with pytest.raises(ValueError, match=f"^response_format.json_schema.schema.*({said})"):
        grammar_of({"type": "json_schema", "schema": schema}, model)
    grammar_of({"type": "json_object"}, model)


@pytest.mark.parametrize(
    ("regex", "said"), [("(a", "unclosed group"), ("(?=a)b", "look-around"), ("[^\\x00-\\U0010ffff]", "")]
)
def test_a_regular_expression_that_is_none_is_refused_by_name(model, regex, said):
    with pytest.raises(ValueError, match=f"^regex: .*{said}"):
        grammar_of({"type": "regex", "regex": regex}, model)


def test_a_bomb_that_goes_off_while_a_text_is_written_ends_that_text_alone(engine, model):
    """(a?){2000}a{2000}: to find what may follow the first token takes forever."""
    heard = [[], []]
    prompt = tuple(model.encode_prompt("A: hello"))
    plain = Request(prompt=prompt, sampling=Sampling(tokens=20, temperature=0))
    bomb = Request(
        prompt=prompt,
        sampling=Sampling(tokens=20, temperature=0),
        grammar=grammar_of({"type": "regex", "regex": "b{1,3}(a?){2000}a{2000}"}, model),
    )
    engine.run([bomb, plain], [events.append for events in heard])
    assert isinstance(heard[0][-1], Failed)
    assert "the form that was asked for" in str(heard[0][-1].error)
    assert heard[1][-1] == Ended("length")


def test_a_form_that_is_slow_at_every_token_has_a_budget_for_all_of_them(model, monkeypatch):
    """All other texts wait for each. The cheap tokens of a text cost nothing."""
    form, [a] = {"type": "regex", "regex": "a{60}"}, model.tokenizer.encode("a")

    def write(grammar):
        for _ in range(50):
            assert a in bits(grammar)
            grammar.take(a)

    cheap = grammar_of(form, model)
    write(cheap)
    assert cheap._left > 1.5
    cheap.close()
    monkeypatch.setattr(forms, "FREE_SECONDS", -0.01)  # some clocks of computing tick no faster
    monkeypatch.setattr(forms, "BUDGET_SECONDS", 0.0)
    slow = grammar_of(form, model)
    with pytest.raises(ValueError, match="more than 0 s in all; the text was given up"):
        write(slow)
    slow.close()


def test_a_step_that_does_not_end_is_given_up_and_the_next_text_is_written(model):
    """The process is stopped by hand, as a step that takes forever would have it."""
    grammar = grammar_of({"type": "regex", "regex": "ab"}, model)
    [a] = model.tokenizer.encode("a")
    assert a in bits(grammar)
    os.kill(grammar._child._process.pid, signal.SIGSTOP)
    with pytest.raises(ValueError, match=r"takes more than 0\.5 s; the text was given up"):
        grammar.take(a)
    del grammar
    again = grammar_of({"type": "regex", "regex": "ab"}, model)
    assert a in bits(again)
    again.take(a)
    assert not again.ended
    again.take(model.tokenizer.encode("b")[0])
    assert again.ended
