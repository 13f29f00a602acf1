"""Labelled texts out of files: classes, labels, numbers, and what is refused with its file and line."""

import json

import pytest

from data.examples.dialogues import Rejected
from data.examples.head_spec import HeadSpec
from data.examples.labelled_texts import LabelledText, check_labelled, labelled_texts
from gptjax.evaluation.items import label_of, labels_of, read_items, value_of


def read(folder, records, bad="stop", **spec):
    path = folder / "some.jsonl"
    path.write_text("".join(f"{json.dumps(record)}\n" for record in records))
    return list(labelled_texts(f"files:{path}", HeadSpec(**spec), bad))


def targets(found):
    return [one.target for one in found]


def test_the_columns_that_are_named_are_read(tmp_path):
    [one] = read(tmp_path, [{"a": {"b": "so"}, "c": "or so", "d": "yes"}], text="a.b", second="c", target="d")
    assert (one.text, one.second, one.target) == ("so", "or so", "yes")
    assert one.where.endswith("some.jsonl:1")


def test_labels_are_a_list_or_text_that_bars_or_commas_part(tmp_path):
    records = [{"text": "x", "labels": one} for one in (["a", "b"], "a|b, c", "a, b", "", [])]
    assert targets(read(tmp_path, records, kind="labels")) == [("a", "b"), ("a", "b, c"), ("a", "b"), (), ()]


def test_numbers_are_read_as_written_or_as_text(tmp_path):
    records = [{"text": "x", "value": one} for one in (3, -2.5, " 1e-3 ")]
    assert targets(read(tmp_path, records, kind="values")) == [3.0, -2.5, 0.001]


def test_what_is_told_of_an_item_is_read_as_training_reads_it(tmp_path):
    """Names, labels and numbers that are written in several ways; a name that is there as it stands wins."""
    records = [
        {"text": "a", "label": True, "labels": "red |  light  blue", "value": " 1e-3 "},
        {"text": "b", "label": " very\t good", "labels": ["red", False], "value": 2},
        {"text": "c", "label": 3.5, "labels": "", "value": "-1"},
    ]
    path = tmp_path / "some.jsonl"
    path.write_text("".join(f"{json.dumps(record)}\n" for record in records))

    def taught(kind):
        found = labelled_texts(f"files:{path}", HeadSpec(kind=kind), "stop")
        return [one.target for one in found if isinstance(one, LabelledText)]

    items, classes, labels = [*read_items([str(path)])], taught("classes"), ["red", "light blue", "false"]
    assert classes == ["true", "very good", "3.5"]
    assert [label_of(item, 0, classes) for item in items] == [0, 1, 2]
    found = [tuple(labels[place] for place in labels_of(item, 0, labels)) for item in items]
    assert found == taught("labels") == [("red", "light blue"), ("red", "false"), ()]
    assert [value_of(item, 0) for item in items] == taught("values") == [0.001, 2.0, -1.0]
    assert label_of({"label": "a  b"}, 0, ["a b", "a  b"]) == 1


def test_a_number_is_a_class_only_where_that_is_said(tmp_path):
    records = [{"text": "x", "label": 3}]
    for label in (3, "3"):
        with pytest.raises(ValueError, match=r"some.jsonl:1: label=.*3.* give --as classes .* or --as values"):
            read(tmp_path, [{"text": "x", "label": label}])
    assert targets(read(tmp_path, records, kind="classes")) == ["3"]


@pytest.mark.parametrize(
    ("record", "spec", "said"),
    [
        ({"text": "x", "value": "good"}, {"kind": "values"}, "some.jsonl:1: value='good' is no number"),
        ({"text": "x", "value": "nan"}, {"kind": "values"}, "value='nan' is no number"),
        ({"text": "x", "value": True}, {"kind": "values"}, "value=True is no number"),
        ({"text": "x", "label": ""}, {}, "some.jsonl:1: label is empty, no class"),
        ({"text": "x", "label": ["a"]}, {}, "is a list: say --as labels"),
        ({"text": " ", "label": "a"}, {}, "some.jsonl:1: text is empty"),
        ({"text": "x", "b": "", "label": "a"}, {"second": "b"}, "some.jsonl:1: b is empty"),
        ({"text": "x", "verdict": "a"}, {"target": "verdikt"}, "did you mean 'verdict'.* name the column with --label"),
        ({"review": "x", "label": "a"}, {}, "no field 'text'.* name the column with --text"),
    ],
)
def test_what_is_no_labelled_text_is_refused_with_file_and_line(tmp_path, record, spec, said):
    with pytest.raises(ValueError, match=said):
        read(tmp_path, [record], **spec)


def test_what_is_no_labelled_text_is_left_out_where_that_is_asked_for_and_a_missing_column_never(tmp_path):
    records = [{"text": "x", "value": "good"}, {"text": "y", "value": 1}]
    [bad, good] = read(tmp_path, records, "skip", kind="values")
    assert isinstance(bad, Rejected)
    assert bad.reason == "value is no number"
    assert good.target == 1.0
    with pytest.raises(ValueError, match="no field 'value'"):
        read(tmp_path, [{"text": "x"}], "skip", kind="values")
    with pytest.raises(ValueError, match=r"no field 'other'.* name the column with --second"):
        read(tmp_path, [{"text": "x", "value": 1}], "skip", kind="values", second="other")


def test_without_as_what_is_no_labelled_text_is_left_out_but_not_what_as_would_decide(tmp_path):
    records = [{"text": " ", "label": "a"}, {"text": "x", "label": ""}, {"text": "x", "label": "b"}]
    *bad, good = read(tmp_path, records, "skip")
    assert [one.reason for one in bad] == ["text is empty, so there is nothing to read", "label is empty, no class"]
    assert good.target == "b"
    for label in (3, ["a"]):
        with pytest.raises(ValueError, match="--as"):
            read(tmp_path, [{"text": "x", "label": label}], "skip")


def test_a_corpus_of_ours_is_read_for_a_label_that_it_has():
    check_labelled("wiki_leads/en", HeadSpec())
    with pytest.raises(ValueError, match="did you mean 'topic'"):
        check_labelled("wiki_leads/en", HeadSpec(target="topics"))
    with pytest.raises(ValueError, match="have no labels"):
        check_labelled("king_james_bible", HeadSpec())
