"""What linear models make of texts: TF-IDF of words, and logistic regression, by SciPy alone.

As scikit-learn has them with sublinear_tf=True: tf = 1 + log n, idf = log((1 + texts) / (1 + texts with it)) + 1, rows
of length 1; logistic regression minimises |W|^2 / 2 + C x nats, biases free. Axes: I texts  W words  C classes.
"""

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from scipy import optimize, sparse, special

WORDS = re.compile(r"[^\W_]{2,}")
HAN = re.compile("[\u3400-\u9fff]")
STEPS = 500  # of L-BFGS at most


def words_of(text: str) -> list[str]:
    """Words of two letters and more in lower case; of Chinese text its characters, and two that follow each other."""
    if not HAN.search(text):
        return WORDS.findall(text.lower())
    return [*text, *(text[place : place + 2] for place in range(len(text) - 1))]


class TfIdf:
    """Texts as rows of weighted words; the words and their weights are those of the texts that it is made of."""

    def __init__(self, texts: Sequence[str]):
        found = Counter(word for text in texts for word in set(words_of(text)))
        self.column = {word: number for number, word in enumerate(sorted(found))}
        in_texts_W = np.array([found[word] for word in self.column], np.float64)
        self.weight_W = np.log((1 + len(texts)) / (1 + in_texts_W)) + 1

    def __call__(self, texts: Sequence[str]) -> Any:
        """A sparse matrix [I, W]; words that are not known count nothing."""
        rows, columns, values = [], [], []
        for row, text in enumerate(texts):
            for word, count in Counter(words_of(text)).items():
                if word in self.column:
                    rows.append(row)
                    columns.append(self.column[word])
                    values.append((1 + np.log(count)) * self.weight_W[self.column[word]])
        x_IW = sparse.csr_matrix((values, (rows, columns)), shape=(len(texts), len(self.column)))
        length_I = np.sqrt(np.asarray(x_IW.multiply(x_IW).sum(axis=1)).ravel())
        return sparse.diags(1 / np.maximum(length_I, 1e-12)) @ x_IW


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
