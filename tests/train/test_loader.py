"""Batches from tf.data: row r is the same from any start, batch or host, and validation reads all of its text once."""

import jax
import numpy as np
import pytest

from data.rows.rows import Builder, HeldOutRows, Rows, open_corpus
from data.token_store import TokenStore
from tests.tiny_text import sentences, write_prepared
from train import loader
from train.loader import training_batches, validation_batches
from train.objectives import Objectives

T = 32


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    sources = {"one": sentences(80), "two": sentences(60, seed=1)}
    return write_prepared(tmp_path_factory.mktemp("pipeline"), sources, {"one": 700, "two": 324})


def read(prepared, **settings):
    """Every array of every batch, rows along the first axis."""
    micro_batches, B = settings["micro_batches"], settings["B"]
    batches = list(training_batches(Rows(prepared, T, 0, None, Objectives().tasks), **settings))
    keep = settings.get("keep", slice(None))
    kept = len(np.arange(B)[keep])
    assert all(batch.shape == (micro_batches, kept, T) for batch in batches)
    return [
        np.concatenate([array.reshape(micro_batches * kept, *array.shape[2:]) for array in arrays])
        for arrays in zip(*batches, strict=True)
    ]


def test_rows_are_the_same_from_any_start_and_in_any_batch(prepared):
    """48 rows as 12 batches of 4 equal 2 batches of 3 micro-batches of 8; starting at row 16 gives rows 16 to 47."""
    small = read(prepared, first_row=0, steps=12, micro_batches=1, B=4)
    large = read(prepared, first_row=0, steps=2, micro_batches=3, B=8)
    later = read(prepared, first_row=16, steps=4, micro_batches=2, B=4)
    for a, b, c in zip(small, large, later, strict=True):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(a[16:], c)
    assert not np.array_equal(small[0][:16], small[0][16:32])


def test_hosts_read_shares_that_together_are_the_rows_of_one_host(prepared):
    """A host's rows need not be neighbours: on a TPU's torus they are not."""
    whole = read(prepared, first_row=8, steps=3, micro_batches=2, B=8)
    held = [np.array([0, 1, 6, 7]), np.array([2, 3, 4, 5])]
    shares = [read(prepared, first_row=8, steps=3, micro_batches=2, B=8, keep=keep) for keep in held]
    for array, *parts in zip(whole, *shares, strict=True):
        for keep, part in zip(held, parts, strict=True):
            np.testing.assert_array_equal(array.reshape(6, 8, -1)[:, keep], part.reshape(6, 4, array[0].size))


def test_rows_beyond_those_of_a_step_are_empty_and_the_next_step_goes_on_where_they_would_have_been(prepared):
    """7 rows a step in 2 micro-batches of 4: the eighth is padding, on the host that has it."""
    plain = read(prepared, first_row=3, steps=2, micro_batches=1, B=7)
    for keep in (slice(None), np.array([2, 3]), np.array([0, 1])):
        own = np.arange(8).reshape(2, 4)[:, keep].ravel()
        padded = read(prepared, first_row=3, steps=2, micro_batches=2, B=4, keep=keep, step_rows=7)
        for array, whole in zip(padded, plain, strict=True):
            array, whole = array.reshape(2, len(own), -1), whole.reshape(2, 7, -1)
            np.testing.assert_array_equal(array[:, own < 7], whole[:, own[own < 7]])
            assert not array[:, own == 7].any()


@pytest.mark.parametrize("workers", [1, 4])
def test_rows_do_not_depend_on_the_number_of_workers(prepared, monkeypatch, workers):
    settings = {"first_row": 5, "steps": 9, "micro_batches": 1, "B": 4}
    usual = read(prepared, **settings)
    monkeypatch.setattr(loader, "WORKERS", workers)
    monkeypatch.setattr(loader, "CALL_TOKENS", 2 * 4 * T)
    for a, b in zip(usual, read(prepared, **settings), strict=True):
        np.testing.assert_array_equal(a, b)


def test_validation_predicts_every_token_once_and_pads_the_rest(prepared):
    """All tokens but each document's BOS are targets; fewer rows are spread over all of the text."""
    store, corpus = TokenStore(prepared / "one" / "validation"), open_corpus(prepared, "validation")
    builder = Builder(corpus, Objectives().tasks, T)

    def held_out(most_rows: int) -> list:
        return list(validation_batches(HeldOutRows(corpus, 0, builder, "causal_lm", T, most_rows), 4))

    batches, limited = held_out(10**9), held_out(3)
    assert sum(batch.weights_BT.sum() for batch in batches) == len(store.tokens) - store.documents
    assert len(limited) == 1
    all_rows = np.concatenate([batch.tokens_BT for batch in batches])
    spread = np.arange(3) * HeldOutRows(corpus, 0, builder, "causal_lm", T, 10**9).count // 3
    np.testing.assert_array_equal(limited[0].tokens_BT[:3], all_rows[spread])
    assert not limited[0].segment_BT[3].any()
    assert batches[0].segment_BT[3].any()


def test_tensorflow_sees_no_accelerator():
    import tensorflow as tf

    assert tf.config.get_visible_devices("GPU") == [] == tf.config.get_visible_devices("TPU")
    assert len(jax.devices()) == 8
