"""Where vectors of texts lie: which are near each other, and a map of them in two dimensions.

Axes: I texts  D features  K nearest.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

BLOCK = 256  # texts whose cosines to all others exist at once


class Nearest(NamedTuple):
    """The nearest others of each text, the nearest first."""

    number_IK: Int[np.ndarray, "I K"]
    cosine_IK: Float[np.ndarray, "I K"]


class Map(NamedTuple):
    """Texts in a plane."""

    place_I2: Float[np.ndarray, "I 2"]
    share_2: Float[np.ndarray, "2"]  # of the variance of all features that each direction has


def nearest(vector_ID: np.ndarray, K: int) -> Nearest:
    """By the cosine of what a vector has beyond the mean of all; of equals the first. A vector that is the mean has 0.

    Source: Mu and Viswanath 2018, arXiv:1702.01417, section 2 (what all vectors share says nothing of any).
    """
    centred_ID = _centred(vector_ID)
    length_I = np.sqrt(np.square(centred_ID).sum(axis=1, keepdims=True))
    unit_ID = centred_ID / np.maximum(length_I, 1e-12)
    texts, K = len(unit_ID), min(K, len(unit_ID) - 1)
    number_IK, cosine_IK = np.zeros((texts, K), np.int64), np.zeros((texts, K))
    for first in range(0, texts, BLOCK):
        cosine_bI = unit_ID[first : first + BLOCK] @ unit_ID.T
        rows = np.arange(len(cosine_bI))
        cosine_bI[rows, first + rows] = -np.inf  # itself
        number_bK = np.argsort(-cosine_bI, axis=1, kind="stable")[:, :K]
        number_IK[first : first + BLOCK] = number_bK
        cosine_IK[first : first + BLOCK] = np.take_along_axis(cosine_bI, number_bK, axis=1)
    return Nearest(number_IK, cosine_IK)


def flat_map(vector_ID: np.ndarray) -> Map:
    """The two directions of largest variance; the largest part of each direction is positive, so that it is one map.

    Source: Pearson 1901 (principal components).
    """
    centred_ID = _centred(vector_ID)
    left_Ir, size_r, right_rD = np.linalg.svd(centred_ID, full_matrices=False)
    sign_2 = np.sign(np.take_along_axis(right_rD[:2], np.abs(right_rD[:2]).argmax(axis=1)[:, None], axis=1))[:, 0]
    place_I2 = np.zeros((len(centred_ID), 2))
    place_I2[:, : len(sign_2)] = left_Ir[:, :2] * size_r[:2] * sign_2
    share_2 = np.zeros(2)
    share_2[: len(sign_2)] = np.square(size_r[:2]) / max(float(np.square(size_r).sum()), 1e-30)
    return Map(place_I2, share_2)


def _centred(vector_ID: np.ndarray) -> np.ndarray:
    vector_ID = np.asarray(vector_ID, np.float64)
    return vector_ID - vector_ID.mean(axis=0, keepdims=True)
