"""Words are weighed as the formulas say."""

import numpy as np
import pytest

from gptjax.evaluation.tf_idf import TfIdf, words_of

TEXTS = ["The fox, the dog", "a box of foxes", "the dog runs"]


def test_words_are_lower_case_and_chinese_ones_characters_and_pairs():
    assert words_of("The Fox-trot, a B2") == ["the", "fox", "trot", "b2"]
    assert words_of("电话呢") == ["电", "话", "呢", "电话", "话呢"]


def test_weights_are_those_of_the_formula_and_rows_have_length_1():
    made = TfIdf(TEXTS)
    row = made(["the the dog zebra"]).toarray()[0]
    the, dog = (1 + np.log(2)) * (np.log(4 / 3) + 1), np.log(4 / 3) + 1
    norm = np.hypot(the, dog)
    assert row[made.column["the"]] == pytest.approx(the / norm)
    assert row[made.column["dog"]] == pytest.approx(dog / norm)
    assert np.count_nonzero(row) == 2
    assert not made(["zebra"]).toarray().any()
