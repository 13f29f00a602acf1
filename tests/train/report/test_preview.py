"""What is shown of examples before training: what is read, what is learnt, where a turn ends."""

import io

import pytest
from rich.console import Console

from gptjax.inference.generation_config import GenerationConfig
from gptjax.inference.learned_spans import ConversationEncoder
from tests.tiny_run import bpe, characters
from train.report.preview import BEFORE, LONGEST, show_examples, show_labelled

TALK = [
    {"role": "user", "content": "hello [x] 🦊"},
    {"role": "assistant", "content": "the fox 曹操"},
    {"role": "user", "content": "and\nthen"},
    {"role": "assistant", "content": "jumps"},
]


def shown(examples, tokenizer, **how):
    file = io.StringIO()
    show_examples(Console(file=file, width=10_000, **how), tokenizer, examples)
    return file.getvalue()


@pytest.fixture
def example():
    tokenizer = bpe()
    return ConversationEncoder(tokenizer, GenerationConfig.of_turns(tokenizer)).encode(TALK, [False, True] * 2)[:2]


def test_what_is_learnt_is_in_brackets_with_the_end_of_its_turn(example):
    """Without colours too; line ends are drawn, and markup in a text is text."""
    out = shown([example], bpe()).splitlines()
    assert out[0] == "read  [learnt]  where a turn ends"
    ids, learned = example
    assert out[1] == f"── example 1 of 1: {len(ids)} tokens, {sum(learned)} learnt ──"
    assert out[2:] == [
        "<|bos|>A: hello [x] 🦊⏎",
        "B:[ the fox 曹操<|eos|>]⏎",
        "A: and then⏎",
        "B:[ jumps<|eos|>]⏎",
        "",
    ]


def test_in_colour_reading_is_dim_learning_green_and_the_end_reversed(example):
    """The end that is read, of a turn that is not learnt, is dim as all else."""
    out = shown([example], bpe(), force_terminal=True, color_system="standard", no_color=False)
    assert "\x1b[2mB:\x1b[0m\x1b[32m[\x1b[0m\x1b[32m the fox 曹操\x1b[0m\x1b[1;7;32m<|eos|>\x1b[0m" in out
    unlearnt = (example[0], [False] * len(example[0]))
    out = shown([unlearnt], bpe(), force_terminal=True, color_system="standard", no_color=False)
    assert "\x1b[1;7;32m<|eos|>" not in out.split("example")[1]


def test_three_are_shown_and_no_more(example):
    out = shown([example] * 5, bpe())
    assert out.count("the fox") == 3
    assert "example 3 of 5" in out
    assert "example 4" not in out


def test_of_a_long_example_what_is_round_the_first_answer_is_shown():
    """And how much is not."""
    tokenizer = characters()
    ids = [*tokenizer.encode("a" * 500), *tokenizer.encode("fox"), *tokenizer.encode("b" * 500)]
    out = shown([(ids, [False] * 500 + [True] * 3 + [False] * 500)], tokenizer)
    before, after = 500 - BEFORE, 500 + 3 + 500 - (500 - BEFORE) - LONGEST
    assert f"… {before} tokens …{'a' * BEFORE}[fox]{'b' * (LONGEST - BEFORE - 3)}… {after} tokens …" in out


def test_what_a_terminal_might_obey_is_written_out():
    tokenizer = characters()
    out = shown([(tokenizer.encode("a\x1b[31mb\r\t"), [False] * len(tokenizer.encode("a\x1b[31mb\r\t")))], tokenizer)
    assert "a\\x1b[31mb\\r\\t" in out
    assert "\x1b" not in out


def test_of_a_labelled_text_what_is_read_and_what_is_told_are_shown():
    tokenizer, file = characters(), io.StringIO()
    ids = [tokenizer.bos, *tokenizer.encode("a fox\x1b"), tokenizer.eos]
    show_labelled(Console(file=file, width=10_000), tokenizer, [(ids, "verdict = [good]")] * 5)
    assert file.getvalue().count("<|bos|>a fox\\x1b<|eos|>  [verdict = [good]]") == 3
