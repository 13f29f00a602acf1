"""Few labels are drawn balanced, from texts of which none is held out, the same for all who ask."""

from collections import Counter

import pytest

from train.lab import few_labels
from train.lab.few_labels import (
    Labelled,
    Rated,
    dev_file,
    drawn,
    held_apart,
    rated,
    read_labelled,
    train_file,
    written,
    written_ratings,
)

TEXTS = [Labelled(f"text\u2028{n}", "abc"[n % 3]) for n in range(90)]  # U+2028 ends no line


def test_what_is_held_out_is_never_learnt_and_a_text_of_two_classes_is_nowhere():
    held = held_apart([*TEXTS, Labelled("text\u20280", "b"), *TEXTS[:5]], test=20, dev=10)
    parts = [{one.text for one in part} for part in held]
    assert [len(part) for part in parts] == [20, 10, 59]
    assert len(set.union(*parts)) == 89
    assert "text\u20280" not in set.union(*parts)
    assert held_apart(TEXTS[::-1], test=20, dev=10).test == held_apart(TEXTS, test=20, dev=10).test


def test_a_draw_is_balanced_another_for_each_seed_and_part_of_the_larger_ones():
    few, more, other = drawn(TEXTS, 8, seed=1), drawn(TEXTS, 16, seed=1), drawn(TEXTS, 8, seed=2)
    assert Counter(one.label for one in few) == {"a": 2, "b": 2, "c": 2}
    assert set(few) < set(more)
    assert set(few) != set(other)
    assert few_labels.part_of("topic", 32) == "topic, 22 labels"
    assert [one.label for one in more] != sorted(one.label for one in more)


def test_more_labels_than_there_are_is_told_with_both_numbers():
    with pytest.raises(ValueError, match="120 labels of 3 classes are 40 of each; the rarest class has 30"):
        drawn(TEXTS, 120, seed=0)
    with pytest.raises(ValueError, match="90 texts are too few to hold 40 and 20"):
        held_apart(TEXTS, test=40, dev=20)


def test_files_are_read_back_as_they_were_written_and_stay_as_they_are(tmp_path, monkeypatch):
    monkeypatch.setitem(few_labels.TASKS, "made", lambda: TEXTS)
    monkeypatch.setattr(few_labels.held_apart, "__defaults__", (20, 10))
    held = written(tmp_path, "made", (6,), (0, 1))
    assert read_labelled(few_labels.test_file(tmp_path, "made")) == held.test
    assert read_labelled(dev_file(tmp_path, "made")) == held.dev
    assert read_labelled(train_file(tmp_path, "made", 6, 1)) == drawn(held.pool, 6, seed=1)
    few_labels.test_file(tmp_path, "made").write_text("")
    written(tmp_path, "made", (6,), (0,))
    assert read_labelled(few_labels.test_file(tmp_path, "made")) == []


def test_rated_texts_are_read_once_in_an_order_that_files_do_not_decide(tmp_path):
    lines = [f"{n}\t{n / 4 - 2}\ttext {n}\n" for n in range(8)]
    first, second = tmp_path / "a.txt", tmp_path / "b.txt"
    first.write_text("".join(["id\tsentiment\ttext\n", *lines[:6]]), encoding="utf-8")
    second.write_text("".join(["id\tsentiment\ttext\n", *lines[4:]]), encoding="utf-8")
    found = rated([first, second])
    assert found == rated([second, first])
    assert sorted(found) == sorted(Rated(f"text {n}", n / 4 - 2) for n in range(8))
    assert [one.text for one in found] != sorted(one.text for one in found)


def test_numbers_that_are_held_out_are_never_learnt(tmp_path, monkeypatch):
    monkeypatch.setattr(few_labels, "TESTED", 20)
    monkeypatch.setattr(few_labels, "MEASURED", 10)
    written_ratings(tmp_path, "valence", [Rated(f"text {n}", n / 4) for n in range(90)], 8, (1, 2))
    test, dev, first, second = (
        set(read_labelled(file))
        for file in (
            few_labels.test_file(tmp_path, "valence"), dev_file(tmp_path, "valence"),
            train_file(tmp_path, "valence", 8, 1), train_file(tmp_path, "valence", 8, 2),
        )
    )  # fmt: skip
    assert (len(test), len(dev), len(first), len(second)) == (20, 10, 8, 8)
    assert not (first | second) & (test | dev)
    assert first != second
