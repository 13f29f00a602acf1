"""Logistic regression by SciPy alone, as scikit-learn has it: it minimises |W|^2 / 2 + C x nats, biases free.

Axes: I texts  W words, or other features  C classes.
"""

from typing import Any

import numpy as np
from jaxtyping import Float, Int
from scipy import optimize, special

STEPS = 500  # of L-BFGS at most


class Logistic:
    """Logistic regression of one class of several, as it was fitted."""

    def __init__(self, x_IW: Any, label_I: Int[np.ndarray, "I"], classes: int, strength: float):
        """`x_IW`: an array or a sparse matrix; `strength`: C, by which nats count beside the squared weights."""
        W = x_IW.shape[1]
        true_IC = np.eye(classes)[label_I]

        def cost(flat: np.ndarray) -> tuple[float, np.ndarray]:
            weight_WC, bias_C = flat[: W * classes].reshape(W, classes), flat[W * classes :]
            score_IC = x_IW @ weight_WC + bias_C
            log_prob_IC = score_IC - special.logsumexp(score_IC, axis=1, keepdims=True)
            off_IC = strength * (np.exp(log_prob_IC) - true_IC)
            total = -strength * float((log_prob_IC * true_IC).sum()) + 0.5 * float((weight_WC**2).sum())
            return total, np.concatenate([np.ravel(x_IW.T @ off_IC + weight_WC), off_IC.sum(axis=0)])

        options = {"maxiter": STEPS}
        flat = optimize.minimize(cost, np.zeros((W + 1) * classes), jac=True, method="L-BFGS-B", options=options).x
        self.weight_WC, self.bias_C = flat[: W * classes].reshape(W, classes), flat[W * classes :]

    def probabilities(self, x_IW: Any) -> Float[np.ndarray, "I C"]:
        return special.softmax(x_IW @ self.weight_WC + self.bias_C, axis=1)


def standardised(train_ID: np.ndarray, *others_ID: np.ndarray) -> list[np.ndarray]:
    """Features at mean 0 and deviation 1 of the training texts."""
    mean_D, deviation_D = train_ID.mean(axis=0), train_ID.std(axis=0) + 1e-8
    return [(features_ID - mean_D) / deviation_D for features_ID in (train_ID, *others_ID)]
