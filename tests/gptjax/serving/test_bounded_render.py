"""Templates of strangers are ended when they take too long or too much; others write as ever."""

import dataclasses

import pytest

from gptjax.inference.chat import TURNS
from gptjax.inference.conversation import written
from gptjax.inference.generation_config import GenerationConfig
from gptjax.inference.language_model import LanguageModel
from gptjax.serving import bounded_render
from gptjax.serving.bounded_render import render_bounded
from tests.tiny_run import bpe, random_model

MESSAGES = [{"role": "user", "content": "hello <|eos|> \N{FOX FACE} 曹操"}]
PLAIN = "{% for m in messages %}{{ m.role }}: {{ m.content }}{{ eos_token }}{% endfor %}{{ tools | tojson }}"
LOOPS = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
EATS = "{% set ns = namespace(t='x' * 9999999) %}{% for a in range(999) %}{% set ns.t = ns.t ~ ns.t %}{% endfor %}"
TALKS = "{% for a in range(9999) %}{{ 'x' * 9999 }}{% endfor %}"


def talker(template):
    model = random_model()
    talks = dataclasses.replace(GenerationConfig.of_runs(bpe()), chat_template=template)
    return LanguageModel(model.config, model.tokenizer, model.params, generation_config=talks)


def test_a_strangers_template_writes_what_it_writes_in_this_process():
    """Special tokens that a message names stay text, tools and a beginning of the answer arrive."""
    model, tools = talker(PLAIN), [{"type": "function", "function": {"name": "f"}}]
    for asked in ({}, {"tools": tools}):
        assert render_bounded(model, MESSAGES, **asked) == written(model, MESSAGES, **asked)
    begun = [*MESSAGES, {"role": "assistant", "content": "Well,"}]
    continued = render_bounded(talker(PLAIN.removesuffix("{{ tools | tojson }}")), begun, continues=True)
    assert continued.endswith("assistant: Well,")


def test_what_a_template_refuses_is_said_and_the_next_conversation_is_written():
    model = talker("{{ raise_exception('no ' ~ messages[0].content) if messages | length > 1 }}hi")
    with pytest.raises(ValueError, match="cannot write this conversation: no hello"):
        render_bounded(model, MESSAGES * 2)
    assert render_bounded(model, MESSAGES) == "hi"


@pytest.mark.parametrize(
    ("template", "said"),
    [(LOOPS, "takes more than 2 s"), (EATS, "MemoryError|more than 512 MiB"), (TALKS, "more than 16 MiB")],
)
def test_a_template_that_loops_or_eats_memory_is_ended(template, said):
    """The next conversation is written by another process."""
    with pytest.raises(ValueError, match=said):
        render_bounded(talker(template), MESSAGES)
    assert render_bounded(talker("hi"), MESSAGES) == "hi"


def test_our_own_templates_need_no_process_for_a_short_conversation(monkeypatch):
    def none(asked):
        raise AssertionError("a process was asked")

    monkeypatch.setattr(bounded_render._renderers(), "answer", none)
    assert render_bounded(talker(None), MESSAGES).startswith("<|bos|>A: hello")
    assert render_bounded(talker(TURNS), MESSAGES).endswith("B:")
    for template, messages in ((PLAIN, MESSAGES), (TURNS, MESSAGES * 5000)):
        with pytest.raises(AssertionError, match="a process was asked"):
            render_bounded(talker(template), messages)
