"""gptjax.probing.similarity: linear CKA beside its definition in float64."""

import numpy as np
import pytest

from gptjax.probing.similarity import alignment, inner_products


def drawn(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape)


def cka(one_ID, other_IE):
    """By features, as the paper defines it, equation 5: not by inner products."""
    one_ID, other_IE = (state - state.mean(axis=0) for state in (one_ID, other_IE))
    across, one, other = one_ID.T @ other_IE, one_ID.T @ one_ID, other_IE.T @ other_IE
    return np.square(np.linalg.norm(across)) / (np.linalg.norm(one) * np.linalg.norm(other))


def test_alignment_is_cka_by_its_definition():
    """Of states of another width too, that share something; whatever the mean of each feature is."""
    one_ID = drawn(0, 50, 6) + 3
    other_IE = one_ID @ drawn(1, 6, 9) + drawn(2, 50, 9) * 2
    found = alignment(inner_products(one_ID), inner_products(other_IE))
    assert found == pytest.approx(cka(one_ID, other_IE), abs=1e-12)
    assert 0.1 < found < 0.9


def test_a_turned_and_scaled_state_is_the_same_and_an_unrelated_one_is_not():
    one_ID = drawn(0, 200, 5)
    turn_DD = np.linalg.qr(drawn(1, 5, 5))[0]
    assert alignment(inner_products(one_ID), inner_products(4 * one_ID @ turn_DD + 7)) == pytest.approx(1, abs=1e-12)
    assert alignment(inner_products(one_ID), inner_products(drawn(2, 200, 5))) < 0.1


def test_half_precision_moves_it_by_less_than_a_ten_thousandth():
    """As runs keep them; also where one token is a hundred times as large as the others."""
    one_ID = drawn(0, 200, 40).astype(np.float32)
    one_ID[7] *= 100
    whole = inner_products(one_ID), inner_products(one_ID + drawn(1, 200, 40))
    halves = [product_II.astype(np.float16) for product_II in whole]
    assert all(np.isfinite(product_II).all() for product_II in halves)
    assert alignment(*halves) == pytest.approx(alignment(*whole), abs=1e-4)


def test_states_that_are_all_the_same_are_like_none():
    assert alignment(inner_products(np.ones((9, 3))), inner_products(drawn(0, 9, 3))) == 0
