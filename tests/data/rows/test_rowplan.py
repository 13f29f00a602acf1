"""What row r holds is arithmetic: the same from anywhere, every document once an epoch, none of it twice."""

import numpy as np
import pytest

from data.rows import rowplan
from data.rows.rowplan import RowPlan, SequentialPlan
from data.token_store import TokenStore, scramble
from gptjax.text.tokenizer import train_characters
from tests.tiny_text import sentences, write_split

T = 16


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rowplan") / "train"
    documents = sentences(50)
    write_split(folder, train_characters(documents, 400), documents)
    return TokenStore(folder)


def tokens_of(store, pieces, rows):
    """[rows, T] token indices that the pieces lay out; -1 where nothing is."""
    laid = np.full((rows, T), -1)
    for row, column, start, length in zip(*pieces[:4], strict=True):
        laid[row, column : column + length] = np.arange(start, start + length)
    return laid


def test_a_row_is_the_same_asked_alone_or_in_any_company(store):
    plan = RowPlan(store, T, (0, 0))
    rows = np.array([7, 400, 3, 10**9, 8])
    together = tokens_of(store, plan.pieces(rows), len(rows))
    for place, row in enumerate(rows):
        alone = tokens_of(store, RowPlan(store, T, (0, 0)).pieces(np.array([row])), 1)
        np.testing.assert_array_equal(together[place], alone[0])
    assert not np.array_equal(together[0], together[4])


def test_an_epoch_reads_every_token_once_but_the_few_that_fill_no_row(store):
    plan = RowPlan(store, T, (0, 0))
    for epoch in (0, 3):
        read = tokens_of(
            store, plan.pieces(np.arange(plan.rows_per_epoch) + epoch * plan.rows_per_epoch), plan.rows_per_epoch
        )
        assert read.min() >= 0
        assert len(np.unique(read)) == read.size == plan.rows_per_epoch * T
        assert len(store.tokens) - read.size < T


def test_epochs_seeds_and_sources_shuffle_differently_and_repeat_themselves(store):
    def first_rows(key, epoch):
        plan = RowPlan(store, T, key)
        return tokens_of(store, plan.pieces(np.arange(8) + epoch * plan.rows_per_epoch), 8)

    np.testing.assert_array_equal(first_rows((0, 0), 1), first_rows((0, 0), 1))
    for other in (((0, 0), 2), ((1, 0), 1), ((0, 1), 1)):
        assert not np.array_equal(first_rows((0, 0), 1), first_rows(*other))


def test_many_blocks_keep_the_promises_of_one(store, monkeypatch):
    monkeypatch.setattr(rowplan, "BLOCK_DOCUMENTS", 7)
    plan = RowPlan(store, T, (0, 0))
    read = tokens_of(store, plan.pieces(np.arange(plan.rows_per_epoch)), plan.rows_per_epoch)
    assert len(np.unique(read)) == read.size
    assert len(store.tokens) - read.size < T * -(-50 // 7)
    both_epochs = plan.pieces(np.array([plan.rows_per_epoch - 1, plan.rows_per_epoch]))
    assert set(both_epochs.epoch_P) == {0, 1}


def test_pieces_never_leave_their_document_and_say_where_it_ends(store):
    pieces = RowPlan(store, T, (0, 0)).pieces(np.arange(100))
    assert (pieces.start_P >= store.offset_D[pieces.document_P]).all()
    assert (pieces.start_P + pieces.length_P <= pieces.document_end_P).all()
    np.testing.assert_array_equal(pieces.document_end_P, store.offset_D[pieces.document_P + 1])
    assert (pieces.length_P > 0).all()


def test_a_sequential_plan_reads_the_stored_order_once_and_ends_short(store):
    plan = SequentialPlan(store, T)
    read = tokens_of(store, plan.pieces(np.arange(plan.rows_per_epoch + 2)), plan.rows_per_epoch + 2).ravel()
    np.testing.assert_array_equal(read[read >= 0], np.arange(len(store.tokens)))
    assert (read[-2 * T :] == -1).all()


def test_too_little_text_names_what_is_needed_and_found(store):
    with pytest.raises(ValueError, match=r"T=100000: 100000 tokens needed, \d+ found"):
        RowPlan(store, 100_000, (0, 0))


def test_scramble_is_fixed_for_all_time_and_moves_with_its_key():
    """These values decide which rows old runs continue with: a change here breaks every resume."""
    np.testing.assert_array_equal(scramble(np.arange(2), 1, 2), SCRAMBLED)
    assert not np.array_equal(scramble(np.arange(2), 1, 3), SCRAMBLED)
    assert len(np.unique(scramble(np.arange(100_000), 5))) == 100_000


SCRAMBLED = np.array([1106550324831291939, 6248538944165345593], np.uint64)
