"""Figures of heads against SciPy and the formulas written out."""

import itertools

import numpy as np
import pytest

from gptjax.evaluation.head_figures import (
    baseline,
    calibration,
    check_figure,
    common_labels,
    confusion,
    counts_of,
    figures,
    label_counts,
    macro_f1,
    micro_f1,
    pearson,
    ranks,
)

DRAW = np.random.default_rng(0)


def f1_by_hand(true, answered):
    """F1 of one class, from the two lists of who has it."""
    right = sum(one and other for one, other in zip(true, answered, strict=True))
    precision, recall = right / max(1, sum(answered)), right / max(1, sum(true))
    return 2 * precision * recall / (precision + recall) if right else 0.0


def test_correlations_are_those_of_scipy():
    stats = pytest.importorskip("scipy.stats")
    one, other = DRAW.normal(size=50), DRAW.integers(0, 9, 50).astype(float)  # with ties
    assert pearson(one, other) == pytest.approx(stats.pearsonr(one, other)[0], abs=1e-12)
    assert pearson(ranks(one), ranks(other)) == pytest.approx(stats.spearmanr(one, other)[0], abs=1e-12)
    np.testing.assert_allclose(ranks(other), stats.rankdata(other))


def test_errors_of_numbers_are_the_formulas():
    found, true = DRAW.normal(size=(40, 1)), 3 * DRAW.normal(size=(40, 1)) + 7
    told = figures("values", found, true)
    assert told["mse"] == pytest.approx(np.mean((found - true) ** 2))
    assert told["r2"] == pytest.approx(1 - ((found - true) ** 2).sum() / ((true - true.mean()) ** 2).sum())
    assert figures("values", np.full((40, 1), true.mean()), true)["r2"] == pytest.approx(0)
    assert np.isnan(figures("values", np.ones((40, 1)), true)["pearson"])


def test_macro_f1_is_the_mean_of_f1_by_hand_over_the_classes_that_occur():
    label, answer = DRAW.integers(0, 4, 60), DRAW.integers(0, 4, 60)
    expected = np.mean([f1_by_hand(label == c, answer == c) for c in range(4)])
    assert macro_f1(counts_of(confusion(label, answer, 5))) == pytest.approx(expected)  # the fifth never occurs


def test_micro_f1_of_labels_counts_all_answers_together():
    true, answered = DRAW.random((30, 4)) < 0.3, DRAW.random((30, 4)) < 0.4
    counts = label_counts(answered, true)
    assert micro_f1(counts) == pytest.approx(f1_by_hand(true.ravel(), answered.ravel()))
    assert macro_f1(counts) == pytest.approx(np.mean([f1_by_hand(true[:, c], answered[:, c]) for c in range(4)]))


def test_accuracy_and_nats_are_of_the_class_that_is_right():
    probability, true = np.array([[0.7, 0.3], [0.4, 0.6], [0.9, 0.1]]), np.eye(2)[[0, 0, 0]]
    told = figures("classes", probability, true)
    assert told["accuracy"] == pytest.approx(2 / 3)
    assert told["nll"] == pytest.approx(-np.log([0.7, 0.4, 0.9]).mean())


def test_calibration_is_how_far_probabilities_are_from_shares():
    said, so = np.array([0.95, 0.95, 0.95, 0.95, 0.55, 0.55]), np.array([1, 1, 1, 0, 1, 0], bool)
    found = calibration(said, so)
    assert found.error == pytest.approx(4 / 6 * 0.2 + 2 / 6 * 0.05)
    assert [(one["count"], one["share"]) for one in found.as_json()] == [(2, 0.5), (4, 0.75)]
    sure = DRAW.random(20_000)
    assert calibration(sure, DRAW.random(20_000) < sure).error < 0.02
    assert calibration(np.array([0.0, 1.0]), np.array([False, True])).error == 0


def test_the_baseline_says_the_commonest_class_or_the_mean():
    said, told = baseline("classes", np.eye(3)[[1, 1, 0]], 2)
    assert "commonest" in said
    assert told.argmax(axis=1).tolist() == [1, 1]
    assert baseline("values", np.array([[1.0], [3.0]]), 2)[1].tolist() == [[2.0], [2.0]]


def test_a_figure_that_does_not_fit_the_head_is_refused_with_those_that_do():
    check_figure("macro_f1", "labels", "stop.figure")
    with pytest.raises(
        ValueError, match=r"stop.figure='r2': is of values, and the head tells classes; one of accuracy"
    ):
        check_figure("r2", "classes", "stop.figure")
    with pytest.raises(ValueError, match="did you mean 'macro_f1'"):
        check_figure("macro-f1", "classes", "stop.figure")


def test_no_items_are_an_error():
    with pytest.raises(ValueError, match="no held-out items"):
        figures("classes", np.zeros((0, 2)), np.zeros((0, 2)))


def test_the_baseline_of_labels_tells_those_that_make_its_f1_highest_in_training():
    """Against every set of labels; with none of half the texts it still tells some."""
    draw = np.random.default_rng(2)
    true_EC = (draw.random((60, 5)) < [0.1, 0.4, 0.3, 0.02, 0.2]).astype(float)
    sets = [np.array(one, bool) for one in itertools.product([0, 1], repeat=5)]
    best = max(micro_f1(label_counts(np.tile(one, (60, 1)), true_EC > 0)) for one in sets)
    told_C, f1 = common_labels(true_EC.sum(axis=0), 60)
    said, told_IC = baseline("labels", true_EC, 60)
    assert f1 == pytest.approx(best)
    assert ((told_IC >= 0.5) == told_C).all()
    assert figures("labels", told_IC, true_EC)["micro_f1"] == pytest.approx(best)
    assert true_EC.mean(axis=0).max() < 0.5
    assert 0 < told_C.sum() < 5
    assert "commonest in training" in said
