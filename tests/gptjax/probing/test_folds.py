"""Parts of labelled texts: as many of every class in each."""

import numpy as np
import pytest

from gptjax.probing.folds import FOLDS, folds, probed_classes


def test_every_part_has_its_share_of_every_class():
    """And of all texts: one more or less; another seed deals them otherwise."""
    label_I = np.array([0] * 13 + [1] * 7 + [2] * 5)
    fold_I = folds(label_I, 0)
    for label in range(3):
        counts = np.bincount(fold_I[label_I == label], minlength=FOLDS)
        assert counts.max() - counts.min() <= 1
    assert np.bincount(fold_I).tolist() == [5] * FOLDS
    assert (folds(label_I, 1) != fold_I).any()
    np.testing.assert_array_equal(folds(label_I, 0), fold_I)


def test_a_class_without_a_text_for_each_part_is_left_out():
    """Where fewer than two are left, the labels that there are are named."""
    assert probed_classes(["b"] * FOLDS + ["a"] * FOLDS + ["rare"]) == ["a", "b"]
    with pytest.raises(ValueError, match=r"the commonest labels are 'b' \(5\), 'rare' \(1\)"):
        probed_classes(["b"] * FOLDS + ["rare"])
