"""gptjax.look.head_roles: heads are named by what was planted in them."""

import numpy as np
import pytest

from gptjax.look.head_roles import ENOUGH, head_roles, probe
from gptjax.look.hook import read
from tests.planted_model import PLANTED, planted_model
from tests.tiny_run import bpe


def named(model, both=False):
    ids = probe(model.tokenizer, model.config.T, model.config.vocabulary)
    prob_CnTS = read(model._model, model.params, ids, [0, 1], [0, 1], both=both).prob_CnTS
    return {(role.layer, role.head): role for role in head_roles(prob_CnTS, ids, [0, 1], [0, 1], both)}


@pytest.mark.parametrize("both", [False, True])
def test_planted_heads_are_named_so(both):
    """Each of the four, from its score; read from both sides too."""
    roles = named(planted_model(), both)
    assert {place: role.name for place, role in roles.items()} == PLANTED
    for place, role in roles.items():
        assert role.scores[PLANTED[place]] > 0.45


def test_an_induction_head_that_cannot_ask_has_no_name():
    """Its attention is then spread; and a head that induction does not need keeps its role."""
    roles = named(planted_model(without=(1, 1)))
    assert roles[1, 1].name is None
    assert roles[1, 1].scores["induction"] < 0.1
    assert roles[1, 0].name == "first token"


def test_induction_needs_the_head_that_tells_the_previous_token():
    """Without it, nothing is written down that the later head could find."""
    assert named(planted_model(without=(0, 0)))[1, 1].name is None


def test_a_probe_says_random_tokens_twice():
    """Behind BOS, none of them special, no two of a half alike; as many as the context holds."""
    ids = probe(bpe(), 64, bpe().size)
    half = ids[1 : 1 + len(ids) // 2]
    assert ids == [bpe().bos, *half, *half]
    assert len(half) == len(set(half)) == 31
    assert not set(half) & bpe().special_ids
    assert len(probe(bpe(), 9, bpe().size)) == 9


def test_roles_are_the_shares_that_a_hand_counts():
    """Of 2 x 3 tokens, a head that gives 0.6 to what followed and 0.4 to the one before; below ENOUGH there is none."""
    ids = [0, 7, 8, 9, 7, 8, 9]
    prob_CnTS = np.zeros((1, 2, 7, 7))
    for query in (4, 5, 6):
        prob_CnTS[0, 0, query, query - 2] += 0.6
        prob_CnTS[0, 0, query, query - 1] += 0.4
        prob_CnTS[0, 1, query, 0] = ENOUGH - 0.01
    one, other = head_roles(prob_CnTS, ids, [5], [2, 3], False)
    assert (one.layer, one.head, one.name) == (5, 2, "induction")
    np.testing.assert_allclose([one.scores["induction"], one.scores["previous token"]], [0.6, 0.4])
    assert (other.head, other.name) == (3, None)
