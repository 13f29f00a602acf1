"""Masked words: how many, which and where, what stands in their place, and who predicts them."""

import numpy as np
import pytest

from data.preparation.token_flags import WORD_START, marks
from data.tasks.masked_lm import MaskedLM, hidden
from data.tasks.task import Corpus
from gptjax.text.tokenizer import train_characters
from tests.tiny_text import LETTERS, letters, text_of

MIDDLE = letters(1002)[1:-1]  # 1,000 tokens from the middle of a document


def test_masked_tokens_are_predicted_from_the_place_before():
    """Targets are the original tokens; where nothing was masked, the row reads as written and has no loss."""
    text = text_of([[letters(20), letters(30)], [letters(40)]], T=64)
    batch = MaskedLM(rate=0.5, final_rate=0.5, unit="token").build(text)
    plain_BT = np.zeros((2, 64), int)
    plain_BT[0, :50], plain_BT[1, :40] = [*letters(20), *letters(30)], letters(40)
    predicted = np.argwhere(batch.weights_BT)
    assert len(predicted) == 9 + 14 + 19  # of 18, 28 and 38 letters
    for row, column in predicted:
        assert batch.targets_BT[row, column] == plain_BT[row, column + 1]
        assert batch.segment_BT[row, column] == batch.segment_BT[row, column + 1]
    changed_BT = batch.tokens_BT != plain_BT
    assert changed_BT.sum() > 20
    assert not changed_BT[:, 1:][batch.weights_BT[:, :-1] == 0].any()
    np.testing.assert_array_equal(batch.visible_BT, batch.segment_BT > 0)
    assert not batch.targets_BT[batch.weights_BT == 0].any()


def test_specials_and_first_tokens_and_padding_are_never_masked():
    """Trap 11: specials, BOS and pads get masked. 10,000 pieces with specials anywhere in them, at a rate of 1."""
    draw = np.random.default_rng(0)
    pieces = [draw.integers(0, 12, draw.integers(1, 12)).tolist() for _ in range(10_000)]
    text = text_of([[piece] for piece in pieces], T=12)
    for unit in ("word", "token"):
        chosen_I = MaskedLM(rate=1, final_rate=1, unit=unit).chosen(text)
        np.testing.assert_array_equal(chosen_I, (text.token_I > 3) & (text.position_I > 0))
        batch = MaskedLM(unit=unit).build(text)
        laid = batch.segment_BT > 0
        special = np.isin(text.token_I, [0, 1, 2, 3])
        np.testing.assert_array_equal(batch.tokens_BT[laid][special], text.token_I[special])
        assert not np.isin(batch.targets_BT[batch.weights_BT > 0], [0, 1, 2, 3]).any()
        assert not batch.weights_BT[~laid].any()


@pytest.mark.parametrize("rate", [0.05, 0.15, 0.5, 1.0])
def test_a_piece_has_exactly_the_share_of_masked_tokens(rate):
    """Trap 12: an off-by-one count, or a segment without a target. Pieces of 2 to 64 tokens, 20 of each."""
    lengths = np.repeat(np.arange(2, 65), 20)
    text = text_of([[MIDDLE[:n]] for n in lengths], T=64)
    wanted = np.maximum(1, np.round(rate * (lengths - 1)))  # the first token has nobody to predict it
    for span in (1, 3):
        single = MaskedLM(rate=rate, final_rate=rate, unit="token", span=span).build(text)
        np.testing.assert_array_equal(single.weights_BT.sum(axis=1), wanted)
    marked = text._replace(mark_I=np.where(text.chance(9) < 0.4, WORD_START, 0).astype(np.uint8))
    word_I = np.cumsum(((marked.mark_I & WORD_START) > 0) | (text.position_I == 1))
    longest = np.maximum.reduceat(np.bincount(word_I)[word_I], text.first_P)
    masked = MaskedLM(rate=rate, final_rate=rate).build(marked).weights_BT.sum(axis=1)
    assert (masked >= 1).all()
    assert (masked <= np.maximum(wanted, longest)).all()
    assert masked.sum() > 0.7 * wanted.sum()


def test_the_rate_falls_evenly_through_the_run():
    """0.30 at the start, 0.15 at the end, 0.225 half way."""
    text = text_of([[MIDDLE]] * 3, T=1000)._replace(progress_R=np.array([0, 0.5, 1]))
    batch = MaskedLM(unit="token").build(text)
    np.testing.assert_array_equal(batch.weights_BT.sum(axis=1), np.round(999 * np.array([0.30, 0.225, 0.15])))


def test_of_the_chosen_eight_tenths_are_masked_and_a_tenth_each_replaced_and_left():
    """Within four standard errors of 30,000 draws; what replaces is any token but a special one."""
    text = text_of([[MIDDLE]] * 30, T=1000)
    chosen_I = np.ones(30_000, bool)
    written_I = hidden(text, chosen_I)
    masked_I, left_I = written_I == LETTERS.mask, written_I == text.token_I
    replaced = written_I[~masked_I & ~left_I]
    for share, found in ((0.8, masked_I.mean()), (0.1, left_I.mean()), (0.1, len(replaced) / 30_000)):
        assert found == pytest.approx(share, abs=4 * (share * (1 - share) / 30_000) ** 0.5)
    assert {*replaced.tolist()} == {*range(4, LETTERS.size)}
    np.testing.assert_array_equal(hidden(text, ~chosen_I), text.token_I)


def test_words_are_masked_whole_and_so_are_chinese_ones():
    """Letter by letter tokens of two languages: of each word all or none is chosen, unlike with single tokens."""
    sentence = "诸葛亮听说曹操的军队已经来了,立刻写信 to his old friends in the capital of the kingdom. "
    tokenizer = train_characters([sentence], 400)
    ids = tokenizer.encode(sentence)
    text = text_of([[[tokenizer.bos, *ids]]] * 50, T=100)
    text = text._replace(mark_I=np.tile(np.append(0, marks([sentence], [ids], tokenizer, None)), 50))
    text = text._replace(corpus=Corpus(("both",), (), {"both": {}}, tokenizer))

    def broken(task):
        """Words of which a part is chosen, as written, and words of which everything is."""
        chosen_I = task.chosen(text)
        word_I = np.cumsum(((text.mark_I & WORD_START) > 0) | (text.position_I == 0))
        share = np.bincount(word_I, chosen_I) / np.maximum(1, np.bincount(word_I))
        spelt = [tokenizer.decode(text.token_I[word_I == word].tolist()) for word in np.unique(word_I)]
        return (
            {name for name, part in zip(spelt, share[1:], strict=True) if 0 < part < 1},
            {name for name, part in zip(spelt, share[1:], strict=True) if part == 1},
        )

    parts, whole = broken(MaskedLM())
    assert parts == set()
    assert {"诸葛亮", "曹操", "friends ", "kingdom. "} <= whole
    parts, _ = broken(MaskedLM(unit="token"))
    assert {"诸葛亮", "friends "} <= parts


def test_longer_spans_leave_more_neighbours_masked():
    """At a rate of 0.1 the next token is masked too one time in ten, in spans of up to five two times in three."""
    text = text_of([[MIDDLE]] * 20, T=1000)

    def neighbours(span):
        chosen_I = MaskedLM(rate=0.1, final_rate=0.1, span=span, unit="token").chosen(text)
        return (chosen_I[1:] & chosen_I[:-1]).sum() / chosen_I.sum()

    assert neighbours(1) == pytest.approx(0.1, abs=0.03)
    assert neighbours(5) == pytest.approx(2 / 3, abs=0.05)  # 2 of 3 tokens of an average span; another span may follow


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rate": 0.0}, r"rate=0.0: must be above 0 and at most 1"),
        ({"final_rate": 1.5}, r"final_rate=1.5: must be above 0"),
        ({"span": 0}, r"span=0: must be at least 1"),
    ],
)
def test_settings_that_cannot_be_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        MaskedLM(**settings)


def test_nothing_of_hidden_words_is_left_in_the_input(monkeypatch):
    """Trap 10: with all words masked, none left or replaced, rows of other words differ in the targets alone."""
    monkeypatch.setattr("data.tasks.masked_lm.MASKED", 1.0)
    one, other = (MaskedLM(rate=1.0, final_rate=1.0).build(text_of([[letters(30, seed)]], T=32)) for seed in (1, 2))
    for name, array in one._asdict().items():
        same = np.array_equal(array, getattr(other, name))
        assert same == (name != "targets_BT"), name


def test_the_cheap_guess_knows_what_was_left_and_the_commonest_word():
    """All e's and one z, all chosen: right where e stands or is masked, and where the z was left."""
    e, z = LETTERS.ids_of("e")[0], LETTERS.ids_of("z")[0]
    text = text_of([[[1, *[e] * 500, z, 2]]] * 40, T=503)
    task = MaskedLM(rate=1.0, final_rate=1.0)
    batch = task.build(text)
    _, right_BT = task.baseline(batch, text.corpus)
    of_e, of_z = right_BT[batch.targets_BT == e], right_BT[batch.targets_BT == z]
    assert of_e.mean() == pytest.approx(0.9, abs=0.01)
    assert of_z.mean() == pytest.approx(0.1, abs=0.15)
    assert not right_BT[batch.weights_BT == 0].any()
