"""Losses are sums, a term at a time, divided once; padding adds nothing, and a packed row scores like its documents."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from data.preparation.token_flags import LEARNED
from data.tasks.reply import Reply
from gptjax.batch import Batch, text_batch
from gptjax.config import ModelConfig
from gptjax.nn.model import Transformer, init_params
from tests.tiny_text import text_of
from train.losses.terms import counts, normalisers, scales, term_losses
from train.objectives import LossSpec, Term, causal_only

CONFIG = ModelConfig(T=24, D=32, L=2, N=2, K=2, head_width=16, F=48, vocabulary=200, dropout=0.5)
MODEL = Transformer(CONFIG)
PARAMS = jax.tree.map(lambda leaf: leaf * 5, nn.unbox(init_params(MODEL, jax.random.key(0))))


def row(*lengths: int, T: int = 24) -> Batch:
    """One row of documents of these lengths, then padding; token ids depend on document and position only."""
    tokens, segment, position = (np.zeros((1, T), np.int32) for _ in range(3))
    start = 0
    for number, length in enumerate(lengths):
        place = slice(start, start + length)
        tokens[0, place] = (np.arange(length) * 7 + length * 13) % 200
        segment[0, place], position[0, place] = number + 1, np.arange(length)
        start += length
    inside = (segment > 0).astype(np.int32)
    targets = (tokens * 3 + 1) % 200
    return text_batch(tokens, targets, inside.astype(np.float32), inside, segment, position, inside < 0)


def loss(batch, key=None):
    return np.asarray(term_losses(PARAMS, MODEL, jax.tree.map(jnp.asarray, batch), causal_only().terms, 1, key))[0]


def test_padding_in_the_row_changes_no_loss():
    """Trap 3."""
    np.testing.assert_allclose(loss(row(9, T=9)), loss(row(9)), rtol=1e-6)
    assert not np.isclose(loss(row(9)), loss(row(10)))


def test_packed_documents_score_what_they_score_alone():
    """Traps 7 and 8."""
    np.testing.assert_allclose(loss(row(5, 11, 8)), loss(row(5)) + loss(row(11)) + loss(row(8)), rtol=1e-6)


def said(length: int, seed: int = 0) -> list[int]:
    """The token ids of a conversation."""
    return np.random.default_rng((length, seed)).integers(4, CONFIG.vocabulary, length).tolist()


def replies(*conversations: list[int]) -> Batch:
    """One row of conversations, of which every third token is learnt."""
    text = text_of([conversations], T=24)
    return Reply().build(text._replace(task=1, mark_I=((text.position_I % 3 == 2) * LEARNED).astype(np.uint8)))


@jax.jit
def slopes(batch: Batch):
    """By parameter, of the summed loss."""
    return jax.grad(lambda params: term_losses(params, MODEL, batch, causal_only().terms, 1)[0])(PARAMS)


def test_packed_replies_score_and_teach_what_they_do_alone():
    packed, alone = replies(said(7), said(12)), [replies(said(7)), replies(said(12))]
    np.testing.assert_allclose(loss(packed), sum(map(loss, alone)), rtol=1e-5)
    assert loss(packed) > 0
    together = jax.tree.map(jnp.add, *map(slopes, alone))
    size = max(float(abs(leaf).max()) for leaf in jax.tree.leaves(together))
    for ours, theirs in zip(jax.tree.leaves(slopes(packed)), jax.tree.leaves(together), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5 * size)


def test_what_another_conversation_says_leaves_a_replys_gradient_as_it_is_bit_for_bit():
    """Of the second one's replies alone, by every parameter; what it says itself moves it."""

    def of_second(*conversations: list[int]):
        batch = replies(*conversations)
        return slopes(batch._replace(weights_BT=np.where(batch.segment_BT == 2, batch.weights_BT, 0)))

    before = jax.tree.leaves(of_second(said(7), said(12)))
    for one, other in zip(before, jax.tree.leaves(of_second(said(7, seed=1), said(12))), strict=True):
        np.testing.assert_array_equal(one, other)
    after = jax.tree.leaves(of_second(said(7), said(12, seed=1)))
    assert not any(np.array_equal(one, other) for one, other in zip(before, after, strict=True))


def test_dropout_acts_only_with_a_key_and_differs_by_key():
    assert loss(row(9)) == loss(row(9))
    first, second = loss(row(9), jax.random.key(1)), loss(row(9), jax.random.key(2))
    assert len({float(first), float(second), float(loss(row(9)))}) == 3


def weighted(weights_BT, task_BT) -> Batch:
    """A batch of nothing but weights and tasks, with any leading axes."""
    task = np.asarray(task_BT, np.int32)
    zeros = np.zeros_like(task)
    return text_batch(zeros, zeros, np.asarray(weights_BT, np.float32), task, zeros, zeros, zeros > 0)


def term(name: str, task: int, expected: tuple[float, ...] | None = None) -> Term:
    return Term(name, task, head=None, loss="tokens", shares=(0.0,), weights=(1.0,), expected=expected)


TERMS = (term("causal_lm", 1), term("order", 2, expected=(2.0, 8.0)))
LOSS_SPEC = LossSpec(terms=TERMS, heads={}, phases=(0.0, 0.5), combine="static", targets=0)


def test_targets_are_counted_by_task_over_all_micro_batches():
    """Trap 4; padding, task 0, counts for none."""
    batch = weighted([[[1, 1], [0, 0]], [[0.5, 1], [0, 1]]], [[[1, 1], [1, 1]], [[1, 2], [2, 0]]])
    np.testing.assert_array_equal(counts(batch, TERMS), [2.5, 1])


def test_a_task_is_divided_by_its_targets_and_a_rare_one_by_those_expected_in_the_phase():
    """Trap 40."""
    for progress, expected in ((0.0, 2.0), (0.49, 2.0), (0.5, 8.0), (1.0, 8.0)):
        found = normalisers(LOSS_SPEC, jnp.array([5.0, 3.0]), jnp.float32(progress))
        np.testing.assert_array_equal(found, [5.0, expected])


def test_targets_of_a_phase_that_comes_in_a_step_of_one_without_any_count_as_those_that_are_there():
    """A phase may begin in the middle of a step; divided by the promised 0, its gradient would have no bound."""
    beginning = LOSS_SPEC._replace(terms=(TERMS[0], term("order", 2, expected=(0.0, 8.0))))
    np.testing.assert_array_equal(normalisers(beginning, jnp.array([5.0, 3.0]), jnp.float32(0.49)), [5.0, 3.0])


def test_a_terms_scale_is_its_coefficient_over_its_normaliser_and_zero_where_it_is_absent():
    """Trap 6: neither 0/0 nor, of a rare task without targets, a share of the loss."""
    found = scales(jnp.array([1.0, 0.5]), jnp.array([4.0, 2.0]), jnp.array([4.0, 0.0]))
    np.testing.assert_array_equal(found, [0.25, 0.0])
    nothing = jnp.zeros(2)
    absent = scales(jnp.ones(2), normalisers(LOSS_SPEC, nothing, jnp.float32(0)), nothing)
    np.testing.assert_array_equal(absent, [0.0, 0.0])
