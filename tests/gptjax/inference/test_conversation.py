"""Messages with roles, for models that know system messages and for those that do not."""

import dataclasses

import pytest

from gptjax.decoding.sampling import Sampling
from gptjax.inference.chat import LINES, Chat
from gptjax.inference.conversation import turn_ids, written
from gptjax.inference.generation_config import GenerationConfig
from gptjax.inference.language_model import LanguageModel
from tests.tiny_run import bpe, random_model

SYSTEM, USER = {"role": "system", "content": "be brief"}, {"role": "user", "content": "hello"}
TAGS = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] + eos_token }}{% endfor %}"


def talker(template):
    model, generation_config = (
        random_model(T=256),
        dataclasses.replace(GenerationConfig.of_runs(bpe()), chat_template=template),
    )
    return LanguageModel(model.config, model.tokenizer, model.params, generation_config=generation_config)


def test_a_system_message_goes_before_the_first_turn_where_the_template_refuses_it():
    joined = USER | {"content": "be brief\n\nhello"}
    assert written(talker(None), [SYSTEM, USER]) == written(talker(LINES), [joined])
    assert written(talker(TAGS), [SYSTEM, USER]) == "system: be brief<|eos|>user: hello<|eos|>"
    with pytest.raises(ValueError, match="only the roles user and assistant"):
        written(talker(None), [SYSTEM, USER | {"role": "critic"}])


@pytest.mark.parametrize("template", [None, TAGS])
def test_a_turn_is_read_as_the_chat_reads_it(template):
    """Without a system message; with one there is more, in which names of special tokens stay text."""
    model = talker(template)
    chat, turn = Chat(model, Sampling(tokens=5)), "hello <|eos|>"
    assert turn_ids(model, chat, turn, None) == chat.tokens(turn)
    ids = turn_ids(model, chat, turn, "be <|eos|> brief")
    assert "brief" in model.tokenizer.decode(ids)
    assert ids.count(model.tokenizer.eos) == (0 if template is None else 2)
    assert ids[-5:] == chat.tokens(turn)[-5:]
