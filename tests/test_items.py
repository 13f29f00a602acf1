"""Items out of files, and what is said of those that cannot be used."""

import re

import pytest

from gptjax.items import prompts, read_items, right_choice, texts_of


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
        (b'{"text": "\xff"}\n', r"a.jsonl: byte \d+ is not UTF-8"),
    ],
)
def test_a_bad_line_is_named_by_file_and_number(tmp_path, content, said):
    (tmp_path / "a.jsonl").write_bytes(content)
    with pytest.raises(ValueError, match=said):
        list(read_items([str(tmp_path / "a.jsonl")]))


def test_templates_take_fields_and_leave_braces_in_them_alone():
    assert prompts([{"a": "{b}", "b": 2}], "{a} and {b}:") == ["{b} and 2:"]


@pytest.mark.parametrize("template", ["{c}", "{", "{0}", "{a.x}"])
def test_a_template_that_does_not_fit_is_refused(template):
    with pytest.raises(ValueError, match=re.escape(f"the template {template!r} does not fit")):
        prompts([{"a": "1"}], template)


def test_an_item_without_a_field_is_told_with_those_that_it_has():
    with pytest.raises(ValueError, match=r"item 1: .* the item has \['a', 'b'\]"):
        prompts([{"c": "1"}, {"b": "1", "a": "1"}], "{c}")


@pytest.mark.parametrize(("answer", "number"), [(1, 1), ("b", 1), ("0", 2), (0, 0)])
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
