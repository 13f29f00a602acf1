"""A linear probe finds what is there, and nothing where nothing is."""

import numpy as np
import pytest

from gptjax.probing import linear_probe
from gptjax.probing.folds import folds
from gptjax.probing.linear_probe import STRENGTHS, figures_of, of_vectors, of_words, probed


def test_what_is_in_one_direction_is_found_and_what_is_by_chance_is_not():
    """Of vectors of which one direction tells the class; labels that are dealt anew are told by chance alone."""
    draw = np.random.default_rng(0)
    label_I = draw.integers(0, 2, 120)
    vector_ID = draw.normal(size=(120, 8)).astype(np.float32)
    vector_ID[:, 3] += 6 * label_I
    found = figures_of(probed(of_vectors(1000 * vector_ID + 50), label_I, 2), label_I)
    assert found["accuracy"].value > 0.95
    shuffled_I = draw.permutation(label_I)
    by_chance = figures_of(probed(of_vectors(vector_ID), shuffled_I, 2), shuffled_I)
    assert 0.3 < by_chance["accuracy"].value < 0.7
    assert by_chance["accuracy"].low < by_chance["accuracy"].value < by_chance["accuracy"].high


def test_no_probe_has_seen_what_it_is_asked(monkeypatch):
    """Features that are the label itself for texts fitted to, and noise for others, tell nothing; each part is fitted
    to its own texts alone."""
    label_I = np.arange(40) % 2
    fold_I = folds(label_I, 0)
    asked_for = []

    def leaking(fitted, others):
        asked_for.append((set(fold_I[fitted]), set(fold_I[others])))
        assert not set(fitted) & set(others)
        return np.eye(2)[label_I[fitted]], np.zeros((len(others), 2))

    answered = probed(leaking, label_I, 2)
    np.testing.assert_allclose(answered.probability_IC, 0.5, atol=0.05)
    assert asked_for[:2] == [({2, 3, 4}, {1}), ({1, 2, 3, 4}, {0})]
    assert len(answered.strengths) == 5
    assert set(answered.strengths) <= set(STRENGTHS)


def test_words_are_those_of_the_texts_that_are_fitted_to():
    """TF-IDF knows no word of the part that is asked; a word that tells the class is found."""
    texts = [f"{'good' if number % 2 else 'bad'} word{number}" for number in range(40)]
    made, asked = of_words(texts)(np.arange(30), np.arange(30, 40))
    assert made.shape[1] == asked.shape[1] == 32
    label_I = np.arange(40) % 2
    assert figures_of(probed(of_words(texts), label_I, 2), label_I)["accuracy"].value == 1


@pytest.mark.parametrize("strength", [STRENGTHS[0], STRENGTHS[-1]])
def test_a_probe_is_bound_as_is_best_for_texts_that_it_was_not_fitted_to(strength, monkeypatch):
    """The one strength that answers right is chosen, whichever it is."""
    label_I = np.arange(20) % 2

    def answers(fitted, labels, asked, classes, tried):
        right = np.eye(2)[asked[:, 0].astype(int)]
        return right if tried == strength else 1 - right

    monkeypatch.setattr(linear_probe, "_answers", answers)
    found = probed(lambda fitted, others: (label_I[fitted, None], label_I[others, None]), label_I, 2)
    assert set(found.strengths) == {strength}
    assert (found.probability_IC.argmax(1) == label_I).all()
