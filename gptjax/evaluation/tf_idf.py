"""Texts as rows of weighted words: what a model of language is compared with.

As scikit-learn has them with sublinear_tf=True: tf = 1 + log n, idf = log((1 + texts) / (1 + texts with it)) + 1, rows
of length 1. Source: Spärck Jones 1972, "A statistical interpretation of term specificity". Axes: I texts  W words.
"""

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import sparse

WORDS = re.compile(r"[^\W_]{2,}")
HAN = re.compile("[\u3400-\u9fff]")


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
