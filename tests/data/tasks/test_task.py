"""What all tasks share: chance that belongs to the text, rows made each by itself, and segments laid into rows."""

import numpy as np
import pytest

from data.rows.rows import Rows, read_text
from data.tasks.causal_lm import CausalLM
from data.tasks.masked_lm import MaskedLM
from data.tasks.order import Order
from data.tasks.position import Position
from data.tasks.prefix_lm import PrefixLM
from data.tasks.task import Targets, Task, Text, fitting, packed, ranks, uniform
from tests.tiny_text import letters, sentences, text_of, write_prepared

TASKS = (
    CausalLM(),
    MaskedLM(rows=1),
    MaskedLM(rows=1, unit="token"),
    Position(rows=1),
    Order(rows=1),
    PrefixLM(rows=1),
)
every = pytest.mark.parametrize("task", TASKS, ids=lambda task: type(task).__name__)
every_drawn = pytest.mark.parametrize("task", TASKS[1:], ids=lambda task: type(task).__name__)  # chance has a part in
T = 64


@pytest.fixture(scope="module")
def text():
    """Eight rows of one to five documents, three of them full."""
    lengths = [(20, 30), (64,), (2, 3, 50), (9,), (10, 10, 10, 10, 10), (30, 34), (1 + 2, 4), (60, 4)]
    return text_of([[letters(n, seed=number) for n in row] for number, row in enumerate(lengths)], T)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    return write_prepared(tmp_path_factory.mktemp("task"), {"one": sentences(80), "two": sentences(60, seed=1)})


def assert_equal(batch, other):
    for a, b in zip(batch, other, strict=True):
        np.testing.assert_array_equal(a, b)


@every
def test_a_row_is_the_same_built_alone_or_in_any_company(task, text):
    """Chance and padding depend on nothing but the row."""
    together = task.build(text)
    for rows in ([3], [0, 1], [2, 4, 7], range(8)):
        apart = task.build(text.of(np.array(rows)))
        assert_equal(apart, [array[list(rows)] for array in together])


@every
def test_a_packed_document_is_the_same_as_one_in_a_row_of_its_own(task, text):
    """Trap 8: positions that go on in the next document. Every array of a document is the same wherever it lies."""
    together = task.build(text)
    alone = task.build(text._replace(row_P=np.arange(len(text.row_P)), progress_R=np.zeros(len(text.row_P))))
    for name in ("tokens_BT", "targets_BT", "weights_BT", "position_BT", "visible_BT"):
        laid = [getattr(batch, name)[batch.segment_BT > 0] for batch in (together, alone)]
        np.testing.assert_array_equal(*laid)
    begins = together.segment_BT != np.pad(together.segment_BT, ((0, 0), (1, 0)))[:, :-1]
    assert (begins & (together.segment_BT > 0)).sum() == len(text.row_P)
    assert not together.position_BT[begins].any()


@every
def test_nothing_is_predicted_across_the_end_of_a_document(task, text):
    """Trap 2: the last token of a document predicts nothing beyond it, and padding nothing at all."""
    batch = task.build(text)
    last = batch.segment_BT != np.pad(batch.segment_BT, ((0, 0), (0, 1)))[:, 1:]
    assert not batch.weights_BT[last | (batch.segment_BT == 0)].any()
    assert batch.weights_BT.any()


@every_drawn
def test_chance_differs_by_epoch_and_seed_and_is_the_same_when_asked_again(task, prepared):
    """Trap 13: the same masks each epoch. The same documents of one epoch, again, of the next, and of another seed."""
    rows = Rows(prepared, T, 0, None, {"task": task})
    pieces = rows.plans[0].pieces(np.arange(16))

    def built(epoch, seed):
        of_epoch = pieces._replace(epoch_P=np.full_like(pieces.epoch_P, epoch))
        return task.build(read_text(rows.corpus, [(0, of_epoch)], T, np.zeros(16), seed))

    def alike(batch, other):
        """Rows of equal loss and equal visibility."""
        same = (batch.weights_BT == other.weights_BT) & (batch.visible_BT == other.visible_BT)
        return same.all(axis=1).sum()

    first = built(0, 0)
    assert_equal(first, built(0, 0))
    assert alike(first, built(1, 0)) <= 3  # of 16: a prefix has 33 lengths
    assert alike(first, built(0, 1)) <= 3


@every_drawn
def test_hosts_build_disjoint_rows_that_together_are_the_whole(task, prepared):
    """Trap 13: the same masks on each host. Two hosts' shares of 16 rows, and no key of chance is in both."""
    rows = Rows(prepared, T, 0, None, {"task": task})
    held = np.arange(16) % 4 < 2
    whole = rows.batch(np.arange(16))
    for share in (held, ~held):
        assert_equal(rows.batch(np.flatnonzero(share)), [array[share] for array in whole])
    keys = [{*rows.text(np.flatnonzero(share)).key_P.tolist()} for share in (held, ~held)]
    assert not keys[0] & keys[1]
    assert min(map(len, keys)) > 8


def test_chance_is_even_and_another_one_for_each_salt_token_and_piece(text):
    """100,000 numbers: even tenths; correlation between salts and between neighbours as of independent ones."""
    key = np.arange(100_000, dtype=np.uint64)
    drawn = uniform(key, 0)
    assert 0 <= drawn.min() < drawn.max() < 1
    np.testing.assert_allclose(np.bincount((drawn * 10).astype(int)) / 1e5, 0.1, atol=0.005)
    for other in (uniform(key, 1), np.roll(drawn, 1)):
        assert abs(np.corrcoef(drawn, other)[0, 1]) < 0.015
    np.testing.assert_array_equal(drawn[5:9], uniform(key[5:9], 0))
    assert len(np.unique(text.chance(0))) == len(text.token_I)
    assert len(np.unique(text.chance_of_pieces(0))) == len(text.length_P)
    assert not (text.chance(0) == text.chance(1)).any()


def test_a_part_of_the_rows_is_their_text_numbered_anew(text):
    some = text.of(np.array([2, 4]))
    np.testing.assert_array_equal(some.row_P, [0, 0, 0, 1, 1, 1, 1, 1])
    np.testing.assert_array_equal(some.length_P, [2, 3, 50, *[10] * 5])
    np.testing.assert_array_equal(some.key_P, text.key_P[np.isin(text.row_P, [2, 4])])
    np.testing.assert_array_equal(some.token_I[:5], [*letters(2, 2), *letters(3, 2)])
    assert (some.R, len(some.token_I), len(some.mark_I)) == (2, 105, 105)
    numbered = text._replace(progress_R=np.arange(8) / 8).of(np.array([2, 4]))
    np.testing.assert_array_equal(numbered.progress_R, [0.25, 0.5])


def test_tokens_know_their_piece_and_their_place_in_it():
    text = text_of([[[1, 2], [1, 7, 2]], [[1, 2]]], T=8)
    np.testing.assert_array_equal(text.piece_I, [0, 0, 1, 1, 1, 2, 2])
    np.testing.assert_array_equal(text.position_I, [0, 1, 0, 1, 2, 0, 1])
    np.testing.assert_array_equal(text.first_P, [0, 2, 5])


def test_segments_fit_as_long_as_the_row_lasts():
    """The first that does not fit and all after it are left out, however short; other rows begin anew."""
    row_S, length_S = np.array([0, 0, 0, 0, 1, 1, 3]), np.array([4, 4, 3, 1, 8, 1, 9])
    kept = fitting(row_S, length_S, T=8)
    np.testing.assert_array_equal(kept, [True, True, False, False, True, False, False])
    np.testing.assert_array_equal(fitting(row_S, length_S, T=12), [True] * 7)


def test_ranks_order_each_group_by_lot_and_equal_lots_as_they_stand():
    group_M = np.array([0, 0, 0, 2, 2, 2, 2])
    np.testing.assert_array_equal(ranks(group_M, np.array([0.3, 0.1, 0.2, 5, 4, 5, 4])), [2, 0, 1, 2, 0, 3, 1])


def test_packed_lays_segments_one_after_another_and_targets_at_their_last_tokens():
    """Two rows of three and no and one segments, made by hand; targets of the first, third and last."""
    text = Text(text_of([[[1]]], 1).corpus, 6, np.zeros(3), *(np.zeros(0, np.int64),) * 9)
    targets = Targets(np.array([0, 2, 3]), np.array([0, 1, 0]), np.array([5, 6, 7]))
    batch = packed(
        text, np.array([0, 0, 0, 2]), np.array([2, 1, 2, 3]), np.arange(10, 18),
        weights_I=np.arange(8) % 2, visible_I=np.arange(8) < 2, targets=targets, Q=3,
    )  # fmt: skip
    np.testing.assert_array_equal(batch.tokens_BT, [[10, 11, 12, 13, 14, 0], [0] * 6, [15, 16, 17, 0, 0, 0]])
    np.testing.assert_array_equal(batch.segment_BT, [[1, 1, 2, 3, 3, 0], [0] * 6, [1, 1, 1, 0, 0, 0]])
    np.testing.assert_array_equal(batch.position_BT, [[0, 1, 0, 0, 1, 0], [0] * 6, [0, 1, 2, 0, 0, 0]])
    np.testing.assert_array_equal(batch.weights_BT, [[0, 1, 0, 1, 0, 0], [0] * 6, [1, 0, 1, 0, 0, 0]])
    np.testing.assert_array_equal(batch.visible_BT, [[1, 1, 0, 0, 0, 0], [0] * 6, [0] * 6])
    assert not batch.targets_BT.any()
    np.testing.assert_array_equal(batch.at_BQ, [[1, 4, 0], [0, 0, 0], [2, 0, 0]])
    np.testing.assert_array_equal(batch.head_BQ, [[0, 1, 0], [0, 0, 0], [0, 0, 0]])
    np.testing.assert_array_equal(batch.label_BQ, [[5, 6, 0], [0, 0, 0], [7, 0, 0]])
    np.testing.assert_array_equal(batch.label_weight_BQ, [[1, 1, 0], [0, 0, 0], [1, 0, 0]])
    dtypes = {array.dtype for array in (batch.weights_BT, batch.value_BQ, batch.label_weight_BQ)}
    assert dtypes == {np.dtype(np.float32)}


def test_packed_says_what_the_run_calls_the_task_its_heads_and_its_places_for_targets():
    """Where a task has fewer targets than places, they are of its first head; beyond its places there is nothing."""
    text = text_of([[[1, 2]], [[3, 4, 5]]], T=4)
    targets = Targets(np.array([1]), np.array([1]), np.array([7]), value_L=np.array([0.5]))
    plain, named = (
        packed(one, text.row_P, text.length_P, text.token_I, targets=targets, Q=2)
        for one in (text, text._replace(task=3, heads=(4, 6), Q=3))
    )
    np.testing.assert_array_equal(named.task_BT, [[3, 3, 0, 0], [3, 3, 3, 0]])
    np.testing.assert_array_equal(named.head_BQ, [[4, 4, 0], [6, 4, 0]])
    np.testing.assert_array_equal(named.label_BQ, [[0, 0, 0], [7, 0, 0]])
    np.testing.assert_array_equal(named.value_BQ, np.float32([[0, 0, 0], [0.5, 0, 0]]))
    np.testing.assert_array_equal(named.label_weight_BQ, [[0, 0, 0], [1, 0, 0]])
    assert (plain.task_BT.any(), plain.head_BQ.tolist()) == (False, [[0, 0], [1, 0]])
    assert [array.dtype for array in named] == [array.dtype for array in plain]


def test_a_task_that_still_calls_its_baseline_a_guess_is_told_so():
    with pytest.raises(TypeError, match=r"Old.guess: is called `baseline` now; rename it"):
        type("Old", (Task,), {"guess": lambda self, batch, corpus: None})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"later": ((0.5, 0, 0), (0.2, 0, 0))}, r"later=.*: the shares of the run must rise"),
        ({"later": ((0.0, 0, 0),)}, r"later=.*: the shares of the run must rise and lie above 0"),
        ({"rows": -0.1}, r"rows: \[-0.1\] must be 0 or more"),
        ({"weight": float("nan")}, r"weight: \[nan\] must be 0 or more"),
        ({"later": ((0.5, 0.0, -1.0),)}, r"weight: \[0.0, -1.0\] must be 0 or more"),
    ],
)
def test_settings_that_cannot_be_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        Task(**settings)


def test_weights_are_the_rows_unless_said_otherwise():
    assert Task(rows=0.25).weights == [0.25]
    assert Task(rows=0.25, weight=2.0, later=((0.5, 0.0, 1.0),)).weights == [2.0, 1.0]


def test_a_task_has_rows_at_some_time_if_now_or_later():
    assert not Task(rows=0.0).ever
    assert Task(rows=0.0, later=((0.5, 0.1, 1.0),)).ever
