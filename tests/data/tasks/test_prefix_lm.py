"""Prompt and answer: who sees whom, by tables made by hand, and where the loss begins."""

import jax.numpy as jnp
import numpy as np
import pytest

from data.tasks.prefix_lm import PrefixLM
from gptjax.nn.attention import Rule, attention_mask
from tests.tiny_text import letters, text_of

DOCUMENT = [1, 10, 11, 12, 13, 2]
TABLES = {
    2: ["110000", "110000", "111000", "111100", "111110", "111111"],
    3: ["111000", "111000", "111000", "111100", "111110", "111111"],
    4: ["111100", "111100", "111100", "111100", "111110", "111111"],
}
WEIGHTS = {2: [0, 1, 1, 1, 1, 0], 3: [0, 0, 1, 1, 1, 0], 4: [0, 0, 0, 1, 1, 0]}
TARGETS = {2: [0, 11, 12, 13, 2, 0], 3: [0, 0, 12, 13, 2, 0], 4: [0, 0, 0, 13, 2, 0]}


@pytest.mark.parametrize("length", TABLES)
def test_six_tokens_see_what_the_table_says(length):
    """Trap 18: a prefix that is one token too long or short. The last prefix token predicts the first of the answer.

    Where a model shifts its inputs, as seqio's does, the prefix is one longer; ours gets them unshifted.
    """
    batch = PrefixLM().build(text_of([[DOCUMENT]] * 30, T=6))
    row = np.flatnonzero(batch.visible_BT.sum(axis=1) == length)[0]
    segment_BT, visible_BT = jnp.array(batch.segment_BT[[row]]), jnp.array(batch.visible_BT[[row]])
    mask_BTS = attention_mask(Rule.of(segment_BT, visible_BT))
    assert ["".join(str(int(cell)) for cell in query) for query in mask_BTS[0]] == TABLES[length]
    np.testing.assert_array_equal(batch.weights_BT[row], WEIGHTS[length])
    np.testing.assert_array_equal(batch.targets_BT[row], TARGETS[length])
    np.testing.assert_array_equal(batch.tokens_BT[row], DOCUMENT)


def test_prefixes_are_evenly_a_quarter_to_three_quarters_of_a_piece():
    """Of 40 tokens 10 to 30, each as often; of 2 tokens 1."""
    visible_BT = PrefixLM().build(text_of([[letters(40)]] * 4200, T=40)).visible_BT
    length_B = visible_BT.sum(axis=1)
    np.testing.assert_array_equal(visible_BT, np.arange(40) < length_B[:, None])
    counts = np.bincount(length_B)
    assert np.flatnonzero(counts).tolist() == [*range(10, 31)]
    assert 130 < counts[10:].min() < 200 < counts.max() < 270
    assert {*PrefixLM().build(text_of([[letters(2)]] * 50, T=2)).visible_BT.sum(axis=1).tolist()} == {1}


def test_every_piece_of_two_or_more_tokens_has_a_prompt_and_an_answer():
    """Pieces of 1 to 64 tokens from the middle of a document; one of a single token is all prompt, without loss."""
    lengths = np.repeat(np.arange(1, 65), 20)
    text = text_of([[letters(70)[1 : n + 1]] for n in lengths], T=64)._replace(next_P=np.full(len(lengths), 7))
    batch = PrefixLM().build(text)
    prompt, losses = batch.visible_BT.sum(axis=1), batch.weights_BT.sum(axis=1)
    assert (prompt >= 1).all()
    assert (prompt[lengths > 1] < lengths[lengths > 1]).all()
    np.testing.assert_array_equal(losses, np.where(lengths == 1, 0, lengths - prompt + 1))


def test_no_weight_where_the_next_position_is_another_segment():
    """Trap 2: and the prefix of a later segment begins with that segment."""
    batch = PrefixLM().build(text_of([[letters(9), letters(14), letters(9)]] * 20, T=34))
    ends = batch.segment_BT[:, :-1] != batch.segment_BT[:, 1:]
    assert not batch.weights_BT[:, :-1][ends].any()
    assert batch.visible_BT[:, [0, 9, 23]].all()
    assert not batch.visible_BT[:, [8, 22, 31]].any()
