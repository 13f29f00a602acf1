"""Neighbours and the map, beside what can be worked out by hand."""

import numpy as np

from gptjax.probing import geometry
from gptjax.probing.geometry import flat_map, nearest


def test_neighbours_are_by_angle_round_the_mean(monkeypatch):
    """Not by distance, nor from the origin: all are moved far away, and one is longer. Itself is none."""
    vector_ID = np.array([[1.0, 0.1], [9.0, 1.0], [-10.0, -1.0], [0.0, -0.1]]) + 1000
    found = nearest(vector_ID, 2)
    centred_ID = vector_ID - vector_ID.mean(axis=0)
    unit_ID = centred_ID / np.linalg.norm(centred_ID, axis=1, keepdims=True)
    cosine_II = unit_ID @ unit_ID.T - 9 * np.eye(4)
    np.testing.assert_array_equal(found.number_IK, np.argsort(-cosine_II, axis=1)[:, :2])
    np.testing.assert_allclose(found.cosine_IK, -np.sort(-cosine_II, axis=1)[:, :2])
    monkeypatch.setattr(geometry, "BLOCK", 3)
    np.testing.assert_array_equal(nearest(vector_ID, 2).number_IK, found.number_IK)
    assert nearest(vector_ID, 9).number_IK.shape == (4, 3)


def test_the_map_has_the_directions_of_largest_variance():
    """As the eigenvectors of the covariance have them, up to the sign, which does not change from call to call."""
    draw = np.random.default_rng(0)
    vector_ID = draw.normal(size=(50, 5)) * [[1, 9, 1, 4, 1]] + 7
    found = flat_map(vector_ID)
    variance_D, axis_DD = np.linalg.eigh(np.cov(vector_ID.T))
    np.testing.assert_allclose(found.share_2, variance_D[::-1][:2] / variance_D.sum())
    centred_ID = vector_ID - vector_ID.mean(axis=0)
    np.testing.assert_allclose(np.abs(found.place_I2), np.abs(centred_ID @ axis_DD[:, ::-1][:, :2]), atol=1e-9)
    np.testing.assert_allclose(flat_map(vector_ID[::-1]).place_I2, found.place_I2[::-1], atol=1e-9)


def test_texts_that_are_all_alike_or_alone_have_a_map_too():
    """At one point; without a neighbour where there is no other."""
    for vector_ID in (np.ones((3, 4)), np.ones((1, 4))):
        assert (flat_map(vector_ID).place_I2 == 0).all()
        assert np.isfinite(nearest(vector_ID, 3).cosine_IK).all()
