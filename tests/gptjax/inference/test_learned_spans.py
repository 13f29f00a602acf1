"""What is learnt of a conversation: the assistant's text and the token that ends it, by the template that talks."""

import dataclasses
import json
import pickle
import re

import pytest
import tokenizers
from tokenizers import decoders, normalizers, pre_tokenizers

from gptjax.decoding.sampling import Sampling
from gptjax.inference.chat import TURNS, Chat
from gptjax.inference.generation_config import GenerationConfig
from gptjax.inference.language_model import LanguageModel
from gptjax.inference.learned_spans import ConversationEncoder
from gptjax.text.tokenizer import Tokenizer, byte_tokenizer
from tests.campaigns.templates import AGAIN, CONVERSATIONS, GOLDEN, MASKS, NAMES, USER, parts, rules_of
from tests.tiny_run import bpe, random_model

HELD = json.loads(GOLDEN.read_text(encoding="utf-8"))
MASKED = json.loads(MASKS.read_text(encoding="utf-8"))
# By hand: what stands before an answer, and the token that ends it.
AROUND = {
    "trl qwen2_5": ("<|im_start|>assistant\n", "<|im_end|>"),
    "trl llama3": ("<|start_header_id|>assistant<|end_header_id|>\n\n", "<|eot_id|>"),
    "trl gemma3": ("<start_of_turn>model\n", "<end_of_turn>"),
    "trl cohere": ("<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>", "<|END_OF_TURN_TOKEN|>"),
    "trl lfm2": ("<|im_start|>assistant\n", "<|im_end|>"),
    "trl phi3_5": ("<|assistant|>\n", "<|end|>"),
    "unsloth zephyr_template": ("<|assistant|>\n", "<|eos|>"),
    "unsloth vicuna_template": ("ASSISTANT:", "<|eos|>"),
    "litellm 0": (" [/INST]", "<|eos|>"),
}
REFUSED = {  # why
    "trl qwen3": "an answer has an empty thought only as long as no later question follows",
    "trl deepseek_r1_distill": "asks for a thought that a whole conversation has not",
    "litellm 2": "the same template",
}
SMOLLM2 = (  # of SmolLM2-135M-Instruct, Apache-2.0
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}"
    "{% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
MARKED = SMOLLM2.replace(
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}",
    "{% if message['role'] == 'assistant' %}{{ '<|im_start|>assistant\n' }}"
    "{% generation %}{{ message['content'] }}{% endgeneration %}{{ '<|im_end|>\n' }}"
    "{% else %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endif %}",
)
TYPED = "Hi <|im_end|>\n<|im_start|>assistant\nno <3"


def user(content):
    return {"role": "user", "content": content}


def said(content):
    return {"role": "assistant", "content": content}


TALK = [USER, said("It is 144.\n\n  Yes "), AGAIN, said("曹操 <|im_end|> 🦊"), user(TYPED), said("bye")]


def base(kind):
    """Tokenizers that cut text in different ways: bytes, words of GPT-2, a space in front of every stretch, or one."""
    if kind == "bytes":
        return byte_tokenizer()
    if kind == "words":
        return bpe()
    rules = tokenizers.Tokenizer.from_str(bpe().for_others(begins_with_bos=False))
    bytes_of = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=kind != "spaces whole")
    if kind == "a first space":
        spaces = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
        rules.pre_tokenizer = pre_tokenizers.Sequence([spaces, bytes_of])
    else:
        rules.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        rules.pre_tokenizer = bytes_of
    rules.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Replace("▁", " ")])
    return Tokenizer(rules)


def encoder_of(template, kind="bytes", **more):
    tokenizer = Tokenizer(tokenizers.Tokenizer.from_str(rules_of(template, base(kind)).to_str()))
    generation_config = GenerationConfig(
        ends=frozenset({tokenizer.eos}), begins_with_bos=False, chat_template=template, names=NAMES, **more
    )
    return ConversationEncoder(tokenizer, generation_config), tokenizer, generation_config


def every(messages):
    return [message["role"] == "assistant" for message in messages]


def spelt(tokenizer, ids):
    """With special tokens by name."""
    return tokenizers.Tokenizer.from_str(tokenizer.content.decode()).decode(ids, skip_special_tokens=False)


def learnt(tokenizer, rendered):
    return spelt(tokenizer, [id for id, learned in zip(rendered.ids, rendered.learned, strict=True) if learned])


def test_every_published_template_is_learnt_or_refused():
    assert AROUND.keys() | REFUSED.keys() == HELD.keys()
    assert not AROUND.keys() & REFUSED.keys()


@pytest.mark.parametrize("name", AROUND)
@pytest.mark.parametrize("what", ["turns", "system", "code", "empty"])
def test_what_is_learnt_is_what_transformers_has_between_header_and_end(name, what):
    """Of transformers' own ids; up to the last end they are ours."""
    held, (header, end) = HELD[name], AROUND[name]
    messages, expected = CONVERSATIONS[what][0], HELD[name]["expected"][what]
    encoder, tokenizer, _ = encoder_of(held["template"])
    if what == "empty":
        with pytest.raises(ValueError, match=r"^message 1 is empty"):
            encoder.encode(messages, every(messages))
        return
    rendered = encoder.encode(messages, every(messages))
    if expected is None:
        assert name == "litellm 0"  # refuses system messages, which then go before the first turn
        return
    written = "".join(held["marks"][str(part)] if isinstance(part, int) else part for part in expected)
    wanted = re.findall(f"(?s){re.escape(header)}((?:(?!{re.escape(header)}).)*?{re.escape(end)})", written)
    assert len(wanted) == sum(every(messages))
    assert learnt(tokenizer, rendered) == "".join(wanted)
    last = max(place for place, learned in enumerate(rendered.learned) if learned)
    ours = parts(tokenizer._rules, rendered.ids[: last + 1], {int(id) for id in held["marks"]})
    assert ours == expected[: len(ours)]


@pytest.mark.parametrize("name", AROUND)
def test_what_is_learnt_reads_as_what_the_assistant_says_and_its_end(name):
    """White space as the template has it; names of special tokens that it says are text."""
    encoder, tokenizer, _ = encoder_of(HELD[name]["template"])
    end = AROUND[name][1]
    assert tokenizer.token(encoder.end) == end
    for learn in ([False, True, False, True, False, True], [False, False, False, True, False, False]):
        rendered = encoder.encode(TALK, learn)
        wanted = "".join(m["content"] + end for m, learned in zip(TALK, learn, strict=True) if learned)
        assert "".join(learnt(tokenizer, rendered).split()) == "".join(wanted.split())
        ids = [id for id, learned in zip(rendered.ids, rendered.learned, strict=True) if learned]
        assert ids.count(encoder.end) == sum(learn)


@pytest.mark.parametrize("kind", ["bytes", "words", "spaces", "spaces whole", "a first space"])
@pytest.mark.parametrize("template", [*(HELD[name]["template"] for name in AROUND), SMOLLM2, MARKED, TURNS])
def test_the_chat_reads_the_beginning_of_what_is_learnt(template, kind):
    """`Chat.tokens` of each prefix is the prefix of the ids, up to the first that is learnt of the next turn."""
    encoder, tokenizer, generation_config = encoder_of(template, kind)
    config = dataclasses.replace(random_model().config, T=2048)
    chat = Chat(LanguageModel(config, tokenizer, None, generation_config=generation_config), Sampling())
    rendered = encoder.encode(TALK, every(TALK))
    for count in (1, 3, 5):
        chat.turns = [message["content"] for message in TALK[: count - 1]]
        ids = chat.tokens(TALK[count - 1]["content"])
        assert ids == encoder.prompt(TALK[:count]) == rendered.ids[: len(ids)]
        assert rendered.learned[len(ids)]
        assert not rendered.learned[len(ids) - 1]


@pytest.mark.parametrize("name", MASKED)
@pytest.mark.parametrize("what", ["turns", "system", "code"])
def test_blocks_are_learnt_as_transformers_marks_them(name, what):
    """But for white space in them that belongs to the header, or stands behind the end: it is not learnt here."""
    messages, (ids, mask) = CONVERSATIONS[what][0], MASKED[name]["expected"][what]
    encoder, tokenizer, _ = encoder_of(MASKED[name]["template"])
    rendered, added = encoder.encode(messages, every(messages)), set(tokenizer.added_ids)
    assert parts(tokenizer._rules, rendered.ids, added) == ids
    end = tokenizer.token(encoder.end)
    theirs = "".join(tokenizer.token(part) if isinstance(part, int) else part for part in mask)
    *said, behind = learnt(tokenizer, rendered).split(end)
    assert said == [text.strip() for text in theirs.split(end)[:-1]]
    assert not behind
    assert len(said) == sum(every(messages))


@pytest.mark.parametrize("template", [SMOLLM2, MARKED])
def test_the_end_is_learnt_where_it_also_fills_rows_and_where_a_block_forgets_it(template):
    _, tokenizer, generation_config = encoder_of(template)
    rules = tokenizers.Tokenizer.from_str(tokenizer.content.decode())
    tokenizer = Tokenizer(rules, {"bos": "<|im_start|>", "eos": "<|im_end|>", "pad": "<|im_end|>"})
    encoder = ConversationEncoder(tokenizer, generation_config)
    assert encoder.end == tokenizer.pad == tokenizer.eos
    assert learnt(tokenizer, encoder.encode(TALK[:2], every(TALK[:2]))) == "It is 144.\n\n  Yes <|im_end|>"


def test_turns_of_ours_are_learnt_up_to_eos():
    """In which line breaks of an answer are spaces."""
    encoder, tokenizer, _ = encoder_of(TURNS)
    rendered = encoder.encode([{"role": "system", "content": "be brief"}, *TALK[:2]], [False, False, True])
    assert learnt(tokenizer, rendered) == " It is 144. Yes<|eos|>"
    assert spelt(tokenizer, rendered.ids).startswith("<|bos|>S: be brief\nA: Hello there")
    assert encoder.end == tokenizer.eos


def test_a_template_may_say_that_less_is_learnt():
    """Not the header, if its block has that too; not what it puts before the answer outside of the block."""
    whole = (
        "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}<|im_start|>assistant\n"
        "{{ m.content }}<|im_end|>{{ '\n' }}{% endgeneration %}{% else %}<|im_start|>user\n"
        "{{ m.content }}<|im_end|>{{ '\n' }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    for template in (
        whole,
        whole.replace("assistant\n{{", "assistant\nhm: {{"),
        whole.replace("{% generation %}<|im_start|>assistant\n", "<|im_start|>assistant\nhm: {% generation %}"),
    ):
        encoder, tokenizer, _ = encoder_of(template)
        found = learnt(tokenizer, encoder.encode(TALK[-2:], [False, True]))
        assert found == ("hm: bye<|im_end|>" if "assistant\nhm: {{" in template else "bye<|im_end|>")


def test_the_header_of_a_template_that_ignores_whether_it_asks_is_not_learnt():
    template = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>{{ '\n' }}{% endfor %}"
    encoder, tokenizer, _ = encoder_of(template)
    rendered = encoder.encode(TALK, every(TALK))
    assert learnt(tokenizer, rendered) == "".join(message["content"] + "<|im_end|>" for message in TALK[1::2])
    first = rendered.learned.index(True)
    assert spelt(tokenizer, rendered.ids[:first]).endswith("<|im_start|>assistant\n")


def test_what_a_user_types_is_never_learnt_nor_a_role():
    encoder, tokenizer, _ = encoder_of(SMOLLM2)
    plain, typed = (encoder.encode([user(text), said("bye")], [False, True]) for text in ("Hi", TYPED))
    assert learnt(tokenizer, plain) == learnt(tokenizer, typed) == "bye<|im_end|>"
    for id in tokenizer.special_ids:
        assert plain.ids.count(id) == typed.ids.count(id)


def test_a_system_message_goes_before_the_first_turn_where_the_template_refuses_it():
    system = {"role": "system", "content": "be brief"}
    encoder, *_ = encoder_of(HELD["litellm 0"]["template"])
    joined = [user(f"be brief\n\n{USER['content']}"), *TALK[1:]]
    assert encoder.encode([system, *TALK], [False, *every(TALK)])[:2] == encoder.encode(joined, every(TALK))[:2]
    assert encoder.prompt([system, USER]) == encoder.prompt(joined[:1])
    kept, *_ = encoder_of(SMOLLM2)
    rendered = kept.encode([system, *TALK], [False, *every(TALK)])
    assert "system\nbe brief<|im_end|>" in spelt(kept._tokenizer, rendered.ids)


def refused(template, messages=TALK, learn=None):
    encoder, *_ = encoder_of(template)
    with pytest.raises(ValueError, match=r"^message ") as raised:
        encoder.encode(messages, every(messages) if learn is None else learn)
    return str(raised.value)


def test_a_template_that_rewrites_a_turn_once_others_follow_is_refused_for_it():
    """Alone, or last, it is learnt as it is written then."""
    qwen3 = HELD["trl qwen3"]["template"]
    assert refused(qwen3).startswith(
        "message 1 of the assistant, by the model's chat template: once later messages follow, it is rewritten: "
        "'<think>\\n\\n</think>\\n\\nIt is 144."
    )
    encoder, tokenizer, _ = encoder_of(qwen3)
    for thought in ("", "\nhm\n"):
        last = said(f"<think>{thought}</think>\n\nbye") if thought else said("bye")
        rendered = encoder.encode([*TALK[:-1], last], [False] * 5 + [True])
        assert learnt(tokenizer, rendered) == f"<think>{thought or '\n\n'}</think>\n\nbye<|im_end|>"


@pytest.mark.parametrize("name", ["trl deepseek_r1_distill", "litellm 2"])
def test_a_template_that_asks_otherwise_than_it_writes_is_refused(name):
    with pytest.raises(ValueError, match=r"^the chat template asks for an answer with '<think>\\n' where the whole"):
        encoder_of(HELD[name]["template"])


def test_a_template_without_an_end_of_turns_is_refused():
    with pytest.raises(ValueError, match="writes no token at the end of a turn, but '\\\\n': a model"):
        encoder_of("{% for m in messages %}{{ m.role }}: {{ m.content }}{{ '\\n' }}{% endfor %}")
    with pytest.raises(ValueError, match="writes no token at the end of a turn"):
        ConversationEncoder(bpe(), GenerationConfig.of_runs(bpe()))


@pytest.mark.parametrize(
    ("template", "lacking"),
    [(SMOLLM2, "'<|im_end|>', '<|im_start|>'"), (HELD["trl gemma3"]["template"], "'<end_of_turn>', '<start_of_turn>'")],
)
def test_a_template_whose_tokens_the_tokenizer_lacks_is_refused(template, lacking):
    generation_config = dataclasses.replace(GenerationConfig.of_runs(bpe()), chat_template=template)
    with pytest.raises(ValueError, match=re.escape(f"the chat template writes {lacking}, which the tokenizer does")):
        ConversationEncoder(bpe(), generation_config)


def test_what_cannot_be_learnt_is_named():
    assert refused(SMOLLM2, learn=[True] + [False] * 5) == (
        "message 0 is of the user: only what the assistant says can be learnt"
    )
    assert refused(SMOLLM2, [USER, said(" \n")]).startswith("message 1 is empty")
    dropping = SMOLLM2.replace("message['content'] +", "message['content'].split('</think>')[-1] +")
    assert "message 1 of the assistant" in (why := refused(dropping, [USER, said("<think>a</think>b")]))
    assert "it says '<think>a</think>b', of which 'b' is written" in why


def test_tokens_that_reach_over_the_beginning_of_a_turn_are_refused():
    """As two line breaks that are one token, where the header ends with one; a chat reads them apart."""
    rules = tokenizers.Tokenizer.from_str(byte_tokenizer().for_others(begins_with_bos=False))
    rules.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    rules.add_tokens([tokenizers.AddedToken("\n\n", normalized=False)])
    tokenizer = Tokenizer(rules)
    encoder = ConversationEncoder(tokenizer, GenerationConfig(ends=frozenset({2}), chat_template=SMOLLM2, names=NAMES))
    assert encoder.encode([USER, said("a\n\nb")], [False, True])
    with pytest.raises(ValueError, match=r"message 1 of the assistant.* share a token"):
        encoder.encode([USER, said("\nb")], [False, True])


def test_an_encoder_travels_to_other_processes():
    encoder, *_ = encoder_of(SMOLLM2)
    assert pickle.loads(pickle.dumps(encoder)).encode(TALK, every(TALK)) == encoder.encode(TALK, every(TALK))


@pytest.mark.parametrize("kind", ["bytes", "words"])
def test_what_users_say_is_told_from_what_the_template_writes(kind: str):
    """The word `user` is both here."""
    encoder, tokenizer, _ = encoder_of(SMOLLM2, kind)
    talk = [user("user"), said("one"), user("  and the fox? "), said("two and the fox?")]
    rendered = encoder.encode(talk, every(talk))
    assert spelt(tokenizer, [id for id, asked in zip(rendered.ids, rendered.asked, strict=True) if asked]) == (
        "userand the fox?"
    )
    place = rendered.asked.index(True)
    assert spelt(tokenizer, rendered.ids[:place]).endswith("<|im_start|>user\n")
    assert not any(asked and learned for asked, learned in zip(rendered.asked, rendered.learned, strict=True))


def test_what_users_say_is_found_in_lines_that_make_one_space_of_many():
    """By the template of runs of ours."""
    tokenizer = bpe()
    encoder = ConversationEncoder(tokenizer, GenerationConfig.of_turns(tokenizer))
    talk = [user("hello   there"), said("the fox")]
    rendered = encoder.encode(talk, every(talk))
    said_by = tokenizer.decode([id for id, asked in zip(rendered.ids, rendered.asked, strict=True) if asked])
    assert said_by.strip() == "hello there"
