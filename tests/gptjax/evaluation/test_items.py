"""Items out of files, and what is said of those that cannot be used."""

import re

import numpy as np
import pytest

from gptjax.arguments import listed
from gptjax.evaluation.items import (
    label_of,
    labels_of,
    left_out,
    prompts,
    read_items,
    right_choice,
    texts_of,
    value_of,
    word_of_label,
)


def test_lines_are_items_and_other_files_are_texts(tmp_path):
    """In the order of the files; empty lines are skipped."""
    (tmp_path / "a.jsonl").write_text('{"text": "曹操", "n": 1}\n\n{"text": "b"}\n')
    (tmp_path / "b.txt").write_text("a whole\nfile")
    found = list(read_items([str(tmp_path / "b.txt"), str(tmp_path / "a.jsonl")]))
    assert found == [{"text": "a whole\nfile"}, {"text": "曹操", "n": 1}, {"text": "b"}]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'{"text": "a"}\n{"text": \n', r"a.jsonl:2: not JSON: Expecting value at character 11"),
        (b'["a"]\n', r"a.jsonl:1: a list; a line is an object"),
        (b'{"text": "a"}\n{"text": "\xff"}\n', r"a.jsonl:2: byte 11 of the line \(0xff\) is not UTF-8"),
        (b'{"text": "a"}\n{"text": "\\ud83d!"}\n', r"a.jsonl:2: half of a surrogate pair"),
        (b'{"text": NaN}\n', r"a.jsonl:1: not JSON that can be read: NaN is no number of JSON"),
        (b"\n" + b"[" * 100_000, r"a.jsonl:2: .* it is nested too deeply"),
    ],
)
def test_a_bad_line_is_named_by_file_and_number(tmp_path, content, said):
    (tmp_path / "a.jsonl").write_bytes(content)
    with pytest.raises(ValueError, match=said):
        list(read_items([str(tmp_path / "a.jsonl")]))


def test_a_byte_order_mark_is_no_text_and_line_ends_stay(tmp_path):
    """As other systems write files."""
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfone\r\ntwo\r\n")
    (tmp_path / "a.jsonl").write_bytes(b'\xef\xbb\xbf{"text": "a\\r"}\r\n')
    files = [str(tmp_path / name) for name in ("a.txt", "a.jsonl")]
    assert list(read_items(files)) == [{"text": "one\r\ntwo\r\n"}, {"text": "a\r"}]
    (tmp_path / "a.txt").write_bytes(b"one\ntwo \xff")
    with pytest.raises(ValueError, match=r"a\.txt:2: byte 5 of the line \(0xff\) is not UTF-8"):
        list(read_items(files))


def test_files_that_cannot_be_items_are_refused_with_the_remedy(tmp_path):
    """Another JSON value, no file, a folder or pattern without any; any other ending is text."""
    (tmp_path / "a.json").write_text("3")
    (tmp_path / "a.md").write_text("# text")
    (tmp_path / "none").mkdir()
    for name, said in {
        "a.json": r"a\.json: a int; a \.json file holds a list of objects",
        "b.txt": r"b\.txt: No such file or directory; give one that can be read: \.txt, ",
        "b*.txt": r"b\*\.txt: No such file or directory; give",
        "none": r"Is a directory; give",
    }.items():
        with pytest.raises(ValueError, match=said):
            list(read_items([str(tmp_path / name)]))
    assert list(read_items([str(tmp_path / "a.md")])) == [{"text": "# text"}]


def test_what_a_folder_holds_beside_items_is_told(tmp_path):
    """Of a file that is named, nothing."""
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n')
    (tmp_path / "b.pdf").write_text("b")
    assert len(list(read_items([str(tmp_path)]))) == 1
    (said,) = left_out([str(tmp_path), str(tmp_path / "a.jsonl")])
    assert said.startswith(f"{tmp_path}: not read, for only .txt, ")
    assert said.endswith("are: 1 .pdf")


def test_templates_take_fields_and_leave_braces_in_them_alone():
    assert prompts([{"a": "{b}", "b": 2}], "{a} and {b}:") == ["{b} and 2:"]


@pytest.mark.parametrize("template", ["{c}", "{", "{0}", "{a.x}", "{a:>99999999999999}", "{a:>9999999999999999999}"])
def test_a_template_that_does_not_fit_is_refused(template):
    with pytest.raises(ValueError, match=re.escape(f"the template {template!r} does not fit")):
        prompts([{"a": "1"}], template)


def test_an_item_without_a_field_is_told_with_those_that_it_has():
    with pytest.raises(ValueError, match=r"item 1: .* the item has \['a', 'b'\]"):
        prompts([{"c": "1"}, {"b": "1", "a": "1"}], "{c}")


def test_a_field_that_holds_nothing_is_refused_by_name():
    """null is not the word None; a field that nobody asks for may be null."""
    with pytest.raises(ValueError, match=r"item 0: the template '\{b\}' does not fit \(b is null\)"):
        prompts([{"a": "1", "b": None}], "{b}")
    assert prompts([{"a": "1", "b": None}], "{a}") == ["1"]
    with pytest.raises(ValueError, match="item 3: its label is null"):
        label_of({"label": None}, 3, ["None"])


@pytest.mark.parametrize("label", [1, "1", np.int64(1)])
def test_labels_are_compared_as_they_are_written(label):
    assert label_of({"label": label}, 0, ["0", "1"]) == 1


@pytest.mark.parametrize(
    ("record", "said"),
    [
        ({"labels": None}, "item 2: labels=None is null; labels are a list"),
        ({"labels": 3}, "is a int"),
        ({"value": True}, "value=True is no number"),
        ({"value": "nan"}, "is no number"),
    ],
)
def test_what_is_no_label_or_number_is_refused_with_its_item(record, said):
    with pytest.raises(ValueError, match=said):
        labels_of(record, 2, ["a"]) if "labels" in record else value_of(record, 2)


@pytest.mark.parametrize(
    ("pairs", "said"), [([("a", "x"), ("", "y")], "label 1 is empty"), ([("a", "x"), ("a", "y")], "'a' is given twice")]
)
def test_labels_are_neither_empty_nor_doubled(pairs, said):
    with pytest.raises(ValueError, match=said):
        word_of_label(pairs)
    assert word_of_label([(1, "x")]) == {"1": "x"}


def test_one_text_where_several_are_wanted_is_refused():
    """Its characters are not what was meant."""
    with pytest.raises(ValueError, match=r"stop='END': is one text; give a list of them, such as \['END'\]"):
        listed("END", "stop")
    assert listed(iter("ab"), "stop") == ["a", "b"]


@pytest.mark.parametrize(("answer", "number"), [(1, 1), ("b", 1), ("0", 2), (0, 0), (np.int64(1), 1)])
def test_the_right_choice_is_told_by_number_or_as_text(answer, number):
    assert right_choice({"answer": answer}, 0, ["a", "b", "0"]) == number


@pytest.mark.parametrize("answer", [3, -1, True, "c", None])
def test_a_right_choice_that_is_none_is_refused(answer):
    with pytest.raises(ValueError, match=f"item 7: answer={answer!r} is none of its choices, nor a number from 0 to 2"):
        right_choice({"answer": answer}, 7, ["a", "b", "0"])


@pytest.mark.parametrize("texts", ["a", [], ["a", 1], None])
def test_a_list_of_texts_is_asked_for(texts):
    with pytest.raises(ValueError, match="must be a list of texts"):
        texts_of({"choices": texts}, 0, "choices")
    with pytest.raises(ValueError, match="item 0: has no field 'choices'; did you mean 'choice'"):
        texts_of({"choice": texts}, 0, "choices")


def test_a_tuple_of_texts_is_a_list_of_them():
    assert texts_of({"choices": ("a", "b")}, 0, "choices") == ["a", "b"]


def test_an_item_of_a_file_is_known_by_its_line(tmp_path):
    """Through all that is said of items; one that comes from elsewhere by its number."""
    (tmp_path / "a.jsonl").write_text('{"txt": "a"}\n\n{"text": "b", "label": "x"}\n')
    first, second = items = [*read_items([str(tmp_path / "a.jsonl")])]
    with pytest.raises(ValueError, match=r"a\.jsonl:1: the template '{text}' does not fit \(no field 'text'\)"):
        prompts(items, "{text}")
    with pytest.raises(ValueError, match=r"a\.jsonl:3: its label 'x' is none of 'y'"):
        label_of(second, 1, ["y"])
    with pytest.raises(ValueError, match=r"item 0: no field 'label'"):
        label_of(dict(first), 0, ["y"])
