"""Replies: what is marked as learnt is predicted, the rest is read."""

import numpy as np

from data.preparation.token_flags import ENCODED, LEARNED, WORD_START
from data.tasks.causal_lm import CausalLM
from data.tasks.reply import Reply
from tests.tiny_text import LETTERS, text_of


def two_examples():
    """Two examples in one row: of `abcdef` the letters c, d and f are learnt, of `ghi` the last."""
    text = text_of([[LETTERS.encode("abcdef"), LETTERS.encode("ghi")]], T=12)
    learned = np.array([0, 0, 1, 1, 0, 1, 0, 0, 1], np.uint8)
    return text._replace(mark_I=learned * LEARNED | WORD_START)


def test_the_token_before_a_learnt_one_has_it_as_target_and_no_other_has_any():
    text = two_examples()
    batch = Reply().build(text)
    ids = text.token_I.tolist()
    places = np.flatnonzero(batch.weights_BT[0]).tolist()
    assert places == [1, 2, 4, 7]
    assert batch.targets_BT[0][places].tolist() == [ids[2], ids[3], ids[5], ids[8]]


def test_all_tokens_are_read_in_segments_of_their_own():
    batch, plain = Reply().build(two_examples()), CausalLM().build(two_examples())
    for name in ("tokens_BT", "segment_BT", "position_BT", "visible_BT"):
        np.testing.assert_array_equal(getattr(batch, name), getattr(plain, name))
    assert not batch.visible_BT.any()
    assert plain.weights_BT.sum() > batch.weights_BT.sum()


def test_running_text_has_nothing_to_learn():
    text = two_examples()
    batch = Reply().build(text._replace(mark_I=text.mark_I & WORD_START))
    assert not batch.weights_BT.any()


def test_what_stands_before_the_first_answer_is_seen_from_both_sides_and_nothing_behind_it():
    """Where marks say so: a and b of `abcdef`, g and h of `ghi`."""
    text = two_examples()
    encoded = np.array([1, 1, 0, 0, 0, 0, 1, 1, 0], np.uint8) * ENCODED
    batch, plain = Reply().build(text._replace(mark_I=text.mark_I | encoded)), Reply().build(text)
    assert batch.visible_BT[0].tolist() == [True] * 2 + [False] * 4 + [True] * 2 + [False] * 4
    for name in ("tokens_BT", "targets_BT", "weights_BT", "segment_BT", "position_BT"):
        np.testing.assert_array_equal(getattr(batch, name), getattr(plain, name))
