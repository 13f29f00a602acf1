"""A conversation: what it remembers, what it forgets, and how a reply ends."""

import pytest

from gptjax.chat import Chat
from gptjax.sampling import Sampling
from gptjax.tokenizer import dialogue_text
from tests.tiny_run import characters, random_model, reciter

GREEDY = Sampling(temperature=0)


def talk(chat, *turns):
    return ["".join(chat.say(turn)) for turn in turns]


def answering(answer, reads, T=64):
    """A model that after `reads` tokens answers."""
    tokenizer = characters()
    return reciter([tokenizer.pad] * (reads - 1) + tokenizer.encode(answer), tokenizer, T)


def test_a_reply_ends_with_its_line():
    """The reply is what stands after "B:" up to the line's end, without the space before it."""
    size = 1 + len("A: hello\nB:")
    chat = Chat(answering(" fox 曹操\nA: and more", size), GREEDY)
    assert list(chat.say("hello")) == list("fox 曹操")
    assert chat.turns == ["hello", "fox 曹操"]
    chat = Chat(answering(" fox 曹操; A: and more\n", size), GREEDY)
    assert talk(chat, "hello") == ["fox 曹操; A: and more"]


def test_earlier_turns_stay_in_context_in_the_dialogue_format():
    chat = Chat(random_model(T=256), Sampling(tokens=5))
    assert chat.context("hello") == "A: hello\nB:"
    talk(chat, "hello")
    assert chat.context(" how\nare  you ") == dialogue_text([*chat.turns, "how are you"]) + "B:"


def test_earlier_turns_move_the_reply():
    """The same words get another reply after another beginning, and the same reply after the same one."""
    model = random_model(T=256)
    settings = Sampling(tokens=20, temperature=0)
    replies = [talk(Chat(model, settings), first, "and you?")[1] for first in ("fox", "dog", "fox")]
    assert replies[0] == replies[2] != replies[1]


def test_a_full_context_drops_whole_oldest_turns():
    """What is read: the longest suffix of whole turns that begins with A and leaves room for the reply."""
    model = random_model(T=64)
    chat = Chat(model, Sampling(tokens=200))
    room = 16  # a quarter of the context
    chat.turns = ["the quick brown", "fox", "jumps over", "the lazy dog", "hello there", "the fox"]
    seen = set()
    for words in range(1, 60, 4):
        turn = " ".join(["the"] * words)
        turns = [*chat.turns, turn]
        size = lambda start: 1 + len(model.tokenizer.encode(dialogue_text(turns[start:]) + "B:"))  # noqa: B023, E731
        fitting = [start for start in (0, 2, 4, 6) if size(start) <= 64 - room]
        if not fitting:
            with pytest.raises(ValueError, match=f"needs {size(6)} tokens; the context holds 64, of which 16 are kept"):
                chat.say(turn)
        else:
            assert chat.context(turn) == dialogue_text(turns[fitting[0] :]) + "B:"
            seen.add(fitting[0])
    assert len(seen) > 2
    assert not fitting  # the longest was refused
    assert len(chat.turns) == 6  # and is not remembered


def test_a_conversation_goes_on_after_its_context_is_full():
    model = random_model(T=64)
    chat = Chat(model, Sampling(tokens=10))
    assert len(talk(chat, *["the quick brown fox"] * 6)) == 6
    assert len(chat.turns) == 12
    everything = dialogue_text([*chat.turns, "hello"]) + "B:"
    assert everything.endswith(chat.context("hello"))
    assert chat.context("hello") != everything
