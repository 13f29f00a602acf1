"""Logistic regression is what its formula says."""

import numpy as np
from scipy import optimize

from gptjax.probing.logistic import Logistic, standardised


def test_the_fit_is_the_minimum_of_its_cost():
    """For two classes beside a minimisation of the binary cost, whose weights are halves that mirror each other."""
    draw = np.random.default_rng(0)
    x_IW, label_I = draw.normal(size=(40, 3)), (draw.random(40) < 0.5).astype(int)
    found = Logistic(x_IW, label_I, 2, strength=2.0)

    def cost(flat):
        margin_I = (2 * label_I - 1) * (x_IW @ flat[:3] + flat[3])
        return 2.0 * np.logaddexp(0, -margin_I).sum() + 0.25 * (flat[:3] ** 2).sum()

    wanted = optimize.minimize(cost, np.zeros(4), tol=1e-10).x
    np.testing.assert_allclose(found.weight_WC[:, 1] - found.weight_WC[:, 0], wanted[:3], atol=1e-3)
    np.testing.assert_allclose(found.bias_C[1] - found.bias_C[0], wanted[3], atol=1e-3)
    np.testing.assert_allclose(found.probabilities(x_IW).sum(axis=1), 1)
    assert np.abs(Logistic(x_IW, label_I, 2, strength=0.01).weight_WC).max() < np.abs(found.weight_WC).max()


def test_features_are_standardised_by_the_training_texts_alone():
    train, other = standardised(np.array([[0.0], [2.0]]), np.array([[4.0]]))
    np.testing.assert_allclose(train, [[-1.0], [1.0]])
    np.testing.assert_allclose(other, [[3.0]])
