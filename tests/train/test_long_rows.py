"""Rows whose tokens lie on several devices: the same losses and gradients, whatever the rows mix."""

import itertools

import numpy as np
import pytest

from tests.train.test_mixed_step import T, assert_near, batch_of, compiled, mixed, norm, once, terms

MESHES = [(1, 1, 1, 8), (1, 2, 2, 2)]  # data, fsdp, tensor, context


def packed_batch():
    """Two documents a row, of all modes: causal, a prefix and both sides in one row, both sides, with padding."""
    batch, number = batch_of(), np.arange(8)[:, None]
    place = np.broadcast_to(np.arange(T, dtype=np.int32), (8, T))
    segment = np.where(place < 9, 1, 2) * ~((number % 4 == 3) & (place == 8) | (number == 0) & (place > 12))
    first, second = segment == 1, segment == 2
    visible = (number > 1) & (first & ((place < 4) | (number > 4)) | second & (number > 2))
    return batch._replace(
        segment_BT=segment.astype(np.int32)[None], position_BT=np.where(second, place - 9, place)[None] * (segment > 0),
        visible_BT=visible[None], weights_BT=batch.weights_BT * (segment > 0),
    )  # fmt: skip


def check(shape):
    _, wanted, gradient = once(compiled(mixed), packed_batch())
    _, found, same = once(compiled(mixed, shape), packed_batch())
    for term in terms():
        np.testing.assert_allclose(found[f"loss/{term.name}"], wanted[f"loss/{term.name}"], rtol=1e-5)
    assert_near(same, gradient)
    assert norm(gradient) > 1e-3
    np.testing.assert_array_equal(found["rows_hash"], wanted["rows_hash"])


@pytest.mark.parametrize("shape", MESHES)
def test_rows_of_all_modes_have_the_losses_and_gradients_of_one_device(shape):
    """Within 1e-5: heads of tokens, of places and of pairs; with one device's tokens as with many rows a device."""
    check(shape)


def test_who_sees_whom_matters_in_these_rows():
    """The same rows with nothing visible, or as one document, have other losses."""
    batch = packed_batch()
    one, *others = (
        once(compiled(mixed), changed)[1]["loss"]
        for changed in (
            batch, batch._replace(visible_BT=batch.visible_BT & False),
            batch._replace(segment_BT=np.minimum(batch.segment_BT, 1)),
        )
    )  # fmt: skip
    assert all(abs(other - one) > 1e-3 for other in others)


ALL = [shape for shape in itertools.product((1, 2, 4, 8), repeat=4) if np.prod(shape) == 8 and shape[3] > 1]


@pytest.mark.slow
@pytest.mark.parametrize("shape", [shape for shape in ALL if shape not in MESHES])
def test_so_they_have_on_any_mesh_of_eight_devices(shape):
    check(shape)
