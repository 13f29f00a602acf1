"""The hash of a step's rows: without order, the same in NumPy and JAX, moved by every bit of a row."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gptjax.batch import Batch
from tests.train.test_step import uneven_batch
from train.record.jsonl_log import JsonlLog
from train.record.ledger import Entry, hexadecimal, read_ledger, rows_hash


def batch(seed: int = 0, rows: int = 8) -> Batch:
    """Rows [rows, T] with sequence-level targets [rows, 3]."""
    generator = np.random.default_rng(seed)
    made = jax.tree.map(lambda array: array[0], uneven_batch(seed, rows=rows))
    ids, values = generator.integers(0, 9, (rows, 3), np.int32), generator.random((rows, 3), np.float32)
    return made._replace(label_BQ=ids, value_BQ=values, at_BQ=ids + 1, head_BQ=ids + 2, label_weight_BQ=values + 1)


def taken(of: Batch, rows) -> Batch:
    return Batch(*(array[rows] for array in of))


def test_numpy_and_the_compiled_hash_agree():
    in_jax = jax.jit(lambda rows: rows_hash(rows, jnp))(batch())
    np.testing.assert_array_equal(in_jax, rows_hash(batch(), np))


def test_it_has_no_order_and_hashes_add_up():
    """Rows in another order hash alike; the two halves of a batch hash to its sum, modulo 2**32 a lane."""
    whole = rows_hash(batch(), np)
    np.testing.assert_array_equal(rows_hash(taken(batch(), np.arange(8)[::-1]), np), whole)
    first, second = (rows_hash(taken(batch(), part), np) for part in (slice(0, 3), slice(3, 8)))
    np.testing.assert_array_equal(first + second, whole)
    twice = rows_hash(taken(batch(), [0, 0, *range(2, 8)]), np)
    assert not np.array_equal(twice, whole)


def test_a_row_of_padding_is_none():
    """Beside one that is empty but for its segment, which is a row like others."""
    empty = jax.tree.map(np.zeros_like, taken(batch(), [0]))
    rows = [Batch(*(np.concatenate(pair) for pair in zip(batch(), other, strict=True)))
            for other in (empty, empty._replace(segment_BT=empty.segment_BT + 1))]  # fmt: skip
    whole, padded, other = (rows_hash(found, np) for found in (batch(), *rows))
    np.testing.assert_array_equal(padded, whole)
    assert (other != whole).all()


@pytest.mark.parametrize("field", Batch._fields)
def test_a_change_of_any_number_of_any_array_changes_both_lanes(field):
    before = rows_hash(batch(), np)
    array = getattr(batch(), field).copy()
    array[3, 1] = ~array[3, 1] if array.dtype == bool else np.nextafter(array[3, 1], np.float32(9)) if (
        array.dtype == np.float32
    ) else array[3, 1] ^ 1  # fmt: skip
    after = rows_hash(batch()._replace(**{field: array}), np)
    assert (before != after).all()


def test_two_numbers_that_change_places_within_a_row_or_between_rows_change_the_hash():
    before = rows_hash(batch(), np)
    for one, other in (((3, 1), (3, 2)), ((3, 1), (4, 1))):
        tokens = batch().tokens_BT.copy()
        assert tokens[one] != tokens[other]
        tokens[one], tokens[other] = tokens[other], tokens[one]
        assert not np.array_equal(rows_hash(batch()._replace(tokens_BT=tokens), np), before)


def test_ten_thousand_rows_have_ten_thousand_hashes():
    """Rows of two tokens that differ in one of them: no two sums collide in 64 bits."""
    rows = batch(rows=10_000)
    seen = {hexadecimal(rows_hash(taken(rows, [row]), np)) for row in range(1, 10_000)}
    assert len(seen) == 9_999


def test_a_damaged_line_is_named(tmp_path):
    entry = Entry(1, 0, 8, "0" * 16, 2.0, 1.0, False)
    (tmp_path / "ledger.jsonl").write_text(json.dumps(entry._asdict()) + '\n{"step": 2}\n')
    with pytest.raises(ValueError, match=r"ledger.jsonl, line 2: .* is no entry"):
        read_ledger(tmp_path)
    (tmp_path / "ledger.jsonl").write_text(json.dumps(entry._asdict()) + "\n{half a li")
    assert read_ledger(tmp_path) == [entry]
    with pytest.raises(ValueError, match="no such file"):
        read_ledger(tmp_path / "nowhere")


def test_a_step_without_numbers_is_null_in_the_file_and_nan_for_its_reader(tmp_path):
    """As are the bare NaN of older ledgers, which are no JSON."""
    entry = Entry(1, 0, 8, "0" * 16, math.nan, math.inf, True)
    log = JsonlLog(tmp_path / "ledger.jsonl", lambda _: True, pytest.fail)
    log.note(entry._asdict())
    log.close()
    line = (tmp_path / "ledger.jsonl").read_text()
    assert json.loads(line, parse_constant=pytest.fail)["loss"] is None
    (tmp_path / "ledger.jsonl").write_text(line + json.dumps(entry._asdict()) + "\n")
    new, old = read_ledger(tmp_path)
    assert math.isnan(new.loss)
    assert math.isnan(new.gradient_norm)
    assert math.isnan(old.loss)
    assert new.skipped
