"""Minimal pairs: what they are made of, and how a model is measured by them."""

import json
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest

from gptjax.results import Metric
from tests.tiny_run import random_model
from train.lab import minimal_pairs
from train.lab.minimal_pairs import PAIRS, WORDS_ZH, Pair, by_subject, main, paradigms, right


def test_each_of_twenty_paradigms_has_two_hundred_different_pairs_of_two_sentences():
    found = paradigms()
    assert Counter(one.language for one in found.values()) == {"en": 10, "zh": 10}
    for one in found.values():
        assert len(set(one.pairs)) == PAIRS
        assert all(pair.good != pair.bad for pair in one.pairs)
    assert {one.subject for one in found.values()} == {"agreement", "word order", "negation", "anaphora"}
    assert found == paradigms()


def test_a_pair_is_as_long_in_both_sentences_and_of_word_order_has_the_same_words():
    """Words are counted in English, characters in Chinese."""
    for name, one in paradigms().items():
        for pair in one.pairs:
            good, bad = (sentence.rstrip(".").split() if one.language == "en" else list(sentence) for sentence in pair)
            assert len(good) == len(bad), (name, pair)
            if one.subject == "word order" or name == "zh/不 before verb":
                assert Counter(good) == Counter(bad), (name, pair)
            else:
                assert sum(a != b for a, b in zip(good, bad, strict=True)) == 1, (name, pair)


@pytest.mark.parametrize("name", ["zh/place before verb", "zh/object after 把", "zh/没有 and 不有"])
def test_every_word_of_a_form_is_used(name):
    read = "".join(pair.good for pair in paradigms()[name].pairs)
    places = {"zh/place before verb": "place", "zh/object after 把": "thing", "zh/没有 and 不有": "thing"}
    assert all(word in read for word in WORDS_ZH[places[name]])


@pytest.mark.parametrize(("view", "chosen"), [("causal", [1, 0, 0.5]), ("bidirectional", [0, 1, 0.5])])
def test_the_sentence_of_the_higher_log_probability_is_chosen_and_a_tie_counts_half(view, chosen):
    """The fake finds shorter texts more probable from one side, longer ones from both."""
    real = random_model()
    nats = {"causal": -1.0, "bidirectional": 1.0}
    model = SimpleNamespace(
        tokenizer=real.tokenizer,
        generation_config=real.generation_config,
        log_probs=lambda texts, view: [np.full(len(ids) - 1, nats[view]) for ids in texts],
    )
    pairs = [Pair("fox", "fox fox"), Pair("fox fox", "fox"), Pair("fox", "fox")]
    np.testing.assert_array_equal(right(model, pairs, view), chosen)  # pyright: ignore[reportArgumentType]


def test_subjects_are_means_over_their_paradigms():
    def of(value: float):
        return {"causal": Metric(value=value, low=None, high=None)}

    found = {name: of(1.0 if "this" in name else 0.4) for name in paradigms()}
    assert by_subject(found)["en", "agreement"] == {"causal": pytest.approx(0.6)}  # pyright: ignore[reportArgumentType]
    assert by_subject(found)["zh", "agreement"] == {"causal": pytest.approx(0.4)}  # pyright: ignore[reportArgumentType]


def test_the_program_prints_a_line_a_paradigm_in_both_views_and_keeps_the_subjects(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(minimal_pairs.gptjax, "load", lambda _: random_model())
    monkeypatch.setattr(minimal_pairs, "PAIRS", 2)
    assert main(["some-run", "--to", str(tmp_path / "found.json")]) == 0
    kept = json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))
    assert len(kept) == 16
    assert 0 <= kept["zh word order, bidirectional"] <= 1
    said = capsys.readouterr().out
    assert all(name in said for name in paradigms())
    assert "bidirectional" in said


def test_a_run_that_is_not_there_is_a_plain_mistake(capsys):
    assert main(["runs/never"]) == 2
    assert "runs/never" in capsys.readouterr().err
