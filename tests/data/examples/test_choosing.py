"""Which conversations are held out: by count, in every stratum, with nothing of them on the other side."""

import numpy as np

from data.examples.choosing import DUPLICATE, TRAIN, TWIN, VALIDATION, sides, told
from data.examples.forms import Conversation, Message
from data.preparation.holdout import text_hash


def talk(prompt: str, reply: str, group: str | None = None) -> Conversation:
    messages = (Message("user", prompt, False), Message("assistant", reply, True))
    return Conversation(messages, prompt if group is None else group, "somewhere:1")


def many(count, source="one"):
    return [told(source, talk(f"what is {n}?", "x" * (n % 90))) for n in range(count)]


def test_a_tenth_at_most_is_held_out_and_never_none():
    for count, wanted, found in ((1000, 200, 100), (1000, 50, 50), (12, 200, 1), (2, 200, 1)):
        side_E = sides(many(count), wanted, {})
        assert (side_E == VALIDATION).sum() == found
        assert (side_E == TRAIN).sum() == count - found


def test_every_third_by_length_is_held_out_alike():
    told_E = many(900)
    side_E = sides(told_E, 90, {})
    size_E = np.array([one.size for one in told_E])
    held = np.sort(size_E[side_E == VALIDATION])
    thirds = np.quantile(size_E, [1 / 3, 2 / 3])
    counts = np.bincount(np.searchsorted(thirds, held), minlength=3)
    assert counts.min() >= 20


def test_what_answers_one_question_is_on_one_side():
    told_E = [told("one", talk(f"what is {n // 5}?", f"answer {n}")) for n in range(300)]
    side_E = sides(told_E, 30, {})
    for group in {one.group for one in told_E}:
        of_group = {side for side, one in zip(side_E.tolist(), told_E, strict=True) if one.group == group}
        assert len(of_group) == 1
    assert 20 <= (side_E == VALIDATION).sum() <= 30


def test_a_twin_of_a_held_out_conversation_does_not_train_whatever_its_spelling():
    told_E = many(100)
    held = int(np.flatnonzero(sides(told_E, 10, {}) == VALIDATION)[0])
    again = told("one", talk(f"WHAT  is {held}?\n", "X" * (held % 90), group="a group of its own"))
    side_E = sides([*told_E, again], 10, {"one": frozenset({told_E[held].exact_group})})
    assert side_E[held] == VALIDATION
    assert side_E[-1] == TWIN
    other = told("one", talk(f"what is {held}?", "another answer", group="a group of its own"))
    assert sides([*told_E, other], 10, {"one": frozenset({told_E[held].exact_group})})[-1] == TRAIN


def test_the_same_conversation_twice_trains_once():
    told_E = [*many(100), *many(100)]
    side_E = sides(told_E, 10, {})
    assert (side_E == DUPLICATE).sum() == 100
    assert not (side_E[:100] == DUPLICATE).any()


def test_what_pretraining_held_out_is_held_out_again_and_nothing_else():
    conversations = [talk(f"what is {n}?", "yes", group=f"document {n}") for n in range(200)]
    before = frozenset(text_hash(f"document {n}".encode()) for n in (3, 77))
    told_E = [told("chitchat", one) for one in conversations]
    side_E = sides(told_E, 50, {"chitchat": before})
    assert np.flatnonzero(side_E == VALIDATION).tolist() == [3, 77]
    elsewhere = sides(told_E, 50, {"other": before})
    assert (elsewhere == VALIDATION).sum() == 20


def test_a_question_and_its_answer_go_by_the_question_whatever_the_form():
    """Of a conversation with more turns, all of it must be the same."""
    one, other = (talk("what is it?", reply, group=f"what is it? {reply}") for reply in ("this", "that"))
    assert told("one", one).group == told("one", other).group
    longer = [one._replace(messages=(*one.messages, *each.messages), group=str(each)) for each in (one, other)]
    assert told("one", longer[0]).group != told("one", longer[1]).group


def test_the_held_out_copy_stays_where_its_twin_comes_first():
    told_E = [*many(40, "a"), *many(40, "b")]
    side_E = sides(told_E, 4, {})
    held = {one.text for one, side in zip(told_E, side_E, strict=True) if side == VALIDATION}
    assert len(held) == 4
    assert not held & {one.text for one, side in zip(told_E, side_E, strict=True) if side == TRAIN}
