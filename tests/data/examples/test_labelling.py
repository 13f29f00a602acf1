"""Labelled texts as they are stored: what the head reads, what it is to tell, and what cannot be learnt."""

import json

import numpy as np
import pytest

from data.examples.example_spec import ExamplesSpec
from data.examples.head_spec import HeadSpec
from data.examples.labelling import prepare_labelled
from data.examples.preparing import tallies_of
from data.preparation.token_flags import WORD_START
from data.rows.rows import Rows, open_corpus
from data.tasks.labelled import Labelled
from gptjax.text.tokenizer import train_characters

TOKENIZER = train_characters(["abcdefghijklmnopqrstuvwxyz 0123456789"], 400)
T = 24


def prepared(folder, records, **spec):
    (folder / "some.jsonl").write_text("".join(f"{json.dumps(record)}\n" for record in records))
    examples = {name: spec.pop(name) for name in ("held_out", "too_long", "bad") if name in spec}
    made = ExamplesSpec(sources=(str(folder / "some.jsonl"),), head=HeadSpec(**spec), **examples)
    return prepare_labelled(made, TOKENIZER, T, folder / "prepared", running=None, replay=0.0)


def read(folder, split="train"):
    """(texts, the store, the head)."""
    corpus = open_corpus(folder, split)
    store, [head] = corpus.stores[0], corpus.heads
    ids = [store.tokens[begin:end].tolist() for begin, end in zip(store.offset_D, store.offset_D[1:], strict=False)]
    return ["".join(map(TOKENIZER.token, one)) for one in ids], store, head


def classes(count=20):
    return [{"text": f"it is {n}", "label": ("good", "bad", "good")[n % 3]} for n in range(count)]


def test_texts_are_stored_as_the_head_reads_them_with_their_class(tmp_path):
    texts, store, head = read(prepared(tmp_path, classes()))
    assert head.classes == ("bad", "good")
    assert len(texts) == 16
    for text, [label] in zip(texts, store.label_DF, strict=True):
        number = int(text.removeprefix("<|bos|>it is ").removesuffix("<|eos|>"))
        assert head.classes[label] == classes()[number]["label"]
    assert store.value_DF.shape == store.weight_DF.shape == (16, 0)


def test_words_are_marked_where_they_start(tmp_path):
    _, store, _ = read(prepared(tmp_path, classes()))
    starts = np.flatnonzero(store.marks[: int(store.offset_D[1])] & WORD_START).tolist()
    assert starts == [1, 4, 7]  # behind BOS: it is N


def test_two_texts_are_read_with_an_eos_behind_each_and_the_longer_is_cut(tmp_path):
    records = [{"text": "a" * (n + 30), "other": "bc", "label": "xy"[n % 2]} for n in range(20)]
    texts, _, head = read(folder := prepared(tmp_path, records, second="other"))
    assert head.two
    assert {*texts} == {"<|bos|>" + "a" * (T - 5) + "<|eos|>bc<|eos|>"}
    [tally] = tallies_of(folder).values()
    assert tally[f"cut to {T} tokens"] == 20
    with pytest.raises(ValueError, match="nothing to"):
        prepared(tmp_path, [*records[:1] * 20], second="other")


def test_numbers_are_standardised_by_those_that_train(tmp_path):
    records = [{"text": f"it is {n}", "value": 10 * n + 3} for n in range(20)]
    folder = prepared(tmp_path, records, kind="values")
    for split in ("train", "validation"):
        texts, store, head = read(folder, split)
        for text, [value] in zip(texts, store.value_DF, strict=True):
            number = int(text.removeprefix("<|bos|>it is ").removesuffix("<|eos|>"))
            assert head.mean + head.scale * value == pytest.approx(10 * number + 3, abs=1e-4)
    own = read(folder)[1].value_DF
    assert (own.mean(), own.std()) == (pytest.approx(0, abs=1e-6), pytest.approx(1, abs=1e-6))


def test_labels_are_stored_each_for_itself(tmp_path):
    records = [{"text": f"it is {n}", "labels": ["ab", "b", "", "a"][n % 4]} for n in range(20)]
    for record in records:
        record["labels"] = list(record["labels"])
    texts, store, head = read(prepared(tmp_path, records, kind="labels"))
    assert head.classes == ("a", "b")
    for text, row in zip(texts, store.label_DF, strict=True):
        number = int(text.removeprefix("<|bos|>it is ").removesuffix("<|eos|>"))
        assert [name for name, one in zip("ab", row, strict=True) if one] == records[number]["labels"]


def test_balanced_classes_pull_alike_in_training_alone(tmp_path):
    folder = prepared(tmp_path, classes(), balanced=True)
    _, store, _ = read(folder)
    weight, label = store.weight_DF[:, 0], store.label_DF[:, 0]
    assert weight[label == 0].sum() == pytest.approx(weight[label == 1].sum())
    assert weight.mean() == pytest.approx(1)
    assert read(folder, "validation")[1].weight_DF.shape[1] == 0


@pytest.mark.parametrize(
    ("records", "spec", "said"),
    [
        ([{"text": f"it is {n}", "label": "a"} for n in range(20)], {}, "label: of 16 training examples all are 'a'"),
        ([{"text": f"it is {n}", "value": 2} for n in range(20)], {"kind": "values"}, "is 2 in all 16 training"),
        ([{"text": f"it is {n}", "labels": []} for n in range(20)], {"kind": "labels"}, "none has a label"),
        (classes(4), {}, "nothing to measure by .*10 at least"),
        ([], {}, "no labelled text in .*: give some, each with a text and its label"),
    ],
)  # fmt: skip
def test_what_cannot_be_learnt_is_refused(tmp_path, records, spec, said):
    with pytest.raises(ValueError, match=said):
        prepared(tmp_path, records, **spec)


def test_a_label_of_the_held_out_that_no_training_example_has_is_refused(tmp_path):
    (tmp_path / "held.jsonl").write_text(json.dumps({"text": "else", "label": "worse"}))
    with pytest.raises(ValueError, match=r"'worse' of the held-out examples .* no training example has"):
        prepared_by(tmp_path, "held.jsonl")


def prepared_by(folder, held):
    (folder / "some.jsonl").write_text("".join(f"{json.dumps(record)}\n" for record in classes()))
    head = HeadSpec(held_out=str(folder / held))
    spec = ExamplesSpec(sources=(str(folder / "some.jsonl"),), head=head)
    return prepare_labelled(spec, TOKENIZER, T, folder / "prepared", running=None, replay=0.0)


def test_examples_to_measure_by_may_be_of_a_file_of_their_own(tmp_path):
    lines = [json.dumps({"text": f"also {n}", "label": "good"}) for n in range(3)]
    (tmp_path / "held.jsonl").write_text("\n".join(lines))
    folder = prepared_by(tmp_path, "held.jsonl")
    assert len(read(folder)[0]) == 20
    assert read(folder, "validation")[0] == [f"<|bos|>also {n}<|eos|>" for n in range(3)]


def rows_of(folder, count=2):
    rows = Rows(folder, T, 0, None, {"labelled": Labelled(rows=1.0)})
    return rows, rows.batch(np.arange(count))


def test_a_row_has_a_target_at_the_end_of_every_text(tmp_path):
    _, batch = rows_of(prepared(tmp_path, classes()))
    assert batch.visible_BT[batch.segment_BT > 0].all()
    for r in range(2):
        ends = np.flatnonzero(batch.tokens_BT[r] == TOKENIZER.eos)
        targets = batch.label_weight_BQ[r] > 0
        assert batch.at_BQ[r][targets].tolist() == ends.tolist()
        for segment, label in enumerate(batch.label_BQ[r][targets], start=1):
            ids = batch.tokens_BT[r][batch.segment_BT[r] == segment].tolist()
            number = int("".join(map(TOKENIZER.token, ids)).removeprefix("<|bos|>it is ").removesuffix("<|eos|>"))
            assert ("bad", "good")[label] == classes()[number]["label"]


def test_a_causal_head_sees_the_left_alone(tmp_path):
    assert not rows_of(prepared(tmp_path, classes(), causal=True))[1].visible_BT.any()


def test_each_label_of_a_text_is_a_target_of_its_own(tmp_path):
    records = [{"text": f"it is {n}", "labels": ["a", "b"][: n % 3]} for n in range(20)]
    _, batch = rows_of(prepared(tmp_path, records, kind="labels"))
    texts = (batch.tokens_BT == TOKENIZER.eos).sum()
    targets = batch.label_weight_BQ > 0
    assert targets.sum() == 2 * texts
    assert {*batch.label_BQ[targets].tolist()} == {0, 1}
    assert {*batch.value_BQ[targets].tolist()} == {0.0, 1.0}
