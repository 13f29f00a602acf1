"""A micro-batch's nats: padding adds nothing, and a packed row scores like its documents alone."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from gptjax.batch import Batch, text_batch
from gptjax.config import ModelConfig
from gptjax.model import Transformer, init_params
from train.losses import task_nats

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


def nats(batch, key=None):
    return np.asarray(task_nats(PARAMS, MODEL, jax.tree.map(jnp.asarray, batch), 1, key))[1]


def test_padding_in_the_row_changes_no_nats():
    np.testing.assert_allclose(nats(row(9, T=9)), nats(row(9)), rtol=1e-6)
    assert not np.isclose(nats(row(9)), nats(row(10)))


def test_packed_documents_score_what_they_score_alone():
    np.testing.assert_allclose(nats(row(5, 11, 8)), nats(row(5)) + nats(row(11)) + nats(row(8)), rtol=1e-6)


def test_dropout_acts_only_with_a_key_and_differs_by_key():
    assert nats(row(9)) == nats(row(9))
    first, second = nats(row(9), jax.random.key(1)), nats(row(9), jax.random.key(2))
    assert len({float(first), float(second), float(nats(row(9)))}) == 3
