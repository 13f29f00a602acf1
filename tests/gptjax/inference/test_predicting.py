"""model.predict: what a head tells of texts is what one plain forward pass makes of them, alone or among others."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gptjax.nn.model import Transformer
from tests.headed_model import HEADS, TEXTS, headed_model

MODEL = headed_model()
LOGITS = {"mood": 3, "colours": 2, "grade": 1, "same": 2}


def by_hand(head, ids):
    """The scores of one text of ids, in float64 from the hidden states on."""
    number, one = HEADS.index(head), jnp.ones((1, len(ids)), jnp.int32)
    visible = jnp.full((1, len(ids)), not head.causal)
    states, _ = jax.jit(Transformer(MODEL.config).apply)(
        {"params": MODEL.params}, jnp.array([ids]), one, jnp.arange(len(ids))[None], visible
    )
    states_TD = np.asarray(states[0], np.float64)
    bank_DC, bias_C, query_D = (
        np.asarray(MODEL.params[f"class_heads{end}"][number], np.float64) for end in ("", "_bias", "_query")
    )
    score_T = states_TD @ query_D / np.sqrt(len(query_D))
    share_T = {
        "last": np.eye(len(ids))[-1], "mean": np.full(len(ids), 1 / len(ids)),
        "attention": np.exp(score_T - score_T.max()) / np.exp(score_T - score_T.max()).sum(),
    }[head.pool]  # fmt: skip
    return (share_T @ states_TD @ bank_DC + bias_C)[: len(head.classes)]


def test_every_kind_tells_what_a_plain_forward_pass_does():
    """Softmax over classes, a sigmoid for each label, a number in the user's units; two texts as one segment."""
    tokenizer = MODEL.tokenizer
    ids = [[tokenizer.bos, *tokenizer.encode(text), tokenizer.eos] for text in TEXTS]
    for said, read in zip(MODEL.predict(TEXTS, "mood"), ids, strict=True):
        z_C = by_hand(HEADS[0], read)
        np.testing.assert_allclose([*said.probabilities.values()], np.exp(z_C) / np.exp(z_C).sum(), atol=1e-5)
        assert said.answer == HEADS[0].classes[int(z_C.argmax())]
    for text, said in zip(TEXTS, MODEL.predict(TEXTS, "colours"), strict=True):
        read = tokenizer.encode(text.lower())
        z_C = by_hand(HEADS[1], [tokenizer.bos, *read[:10], tokenizer.eos])
        np.testing.assert_allclose([*said.probabilities.values()], 1 / (1 + np.exp(-z_C)), atol=1e-5)
        assert said.answer == tuple(name for name, z in zip(HEADS[1].classes, z_C, strict=True) if z >= 0)
        assert said.cut == (len(read) > 10)
    for said, read in zip(MODEL.predict(TEXTS, "grade"), ids, strict=True):
        assert said.answer == pytest.approx(5 + 2 * by_hand(HEADS[2], read)[0], abs=1e-4)
        assert said.probabilities == {}
    [said] = MODEL.predict([(TEXTS[0], TEXTS[1])], "same")
    z_C = by_hand(HEADS[3], [*ids[0], *ids[1][1:]])
    np.testing.assert_allclose([*said.probabilities.values()], np.exp(z_C) / np.exp(z_C).sum(), atol=1e-5)


def test_an_answer_does_not_depend_on_the_other_texts_and_cut_ones_are_said():
    """Alone, among longer ones and in the other order; a text that the context does not hold loses its end."""
    long = "the quick brown fox " * 40
    for name in ("mood", "colours", "grade"):
        among = MODEL.predict([*TEXTS, long], name)
        assert [one.cut for one in among][-1]
        assert not among[0].cut
        for text, said in zip(TEXTS, among, strict=False):
            [alone] = MODEL.predict([text], name)
            assert alone.answer == (pytest.approx(said.answer, abs=1e-4) if name == "grade" else said.answer)
            np.testing.assert_allclose([*alone.probabilities.values()], [*said.probabilities.values()], atol=1e-5)
    assert MODEL.predict([], "mood") == []
    first, second = MODEL.predict(TEXTS[:2], "mood")
    assert first.probabilities != second.probabilities


@pytest.mark.fault(50)
@pytest.mark.parametrize(
    ("texts", "head", "said"),
    [
        (["a"], "moood", r"head='moood': this model has no such head; did you mean 'mood'\?"),
        (["a"], None, "several, so name one of them: mood, colours, grade, same"),
        (["a"], "pairs", "tells something of running text"),
        (["a"], "same", "reads two texts; give both, found one: 'a'"),
        ([("a", "")], "same", "text, second of two: is empty"),
        ([("a", "b")], "mood", "head 'mood' reads one text, found two"),
        (["a", " "], "mood", "text 1: is empty"),
        ("a text", "mood", r"texts='a text': is one text; give a list"),
    ],
)
def test_what_cannot_be_judged_is_refused(texts, head, said):
    with pytest.raises(ValueError, match=said):
        MODEL.predict(texts, head)
