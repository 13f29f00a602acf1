"""What is said of prepared text, and what is said of a file that does not say it."""

import json

import pytest

from data.description import FORMAT, is_prepared, read_description, read_prepared
from tests.tiny_text import write_prepared_json


def test_what_is_written_is_read(tmp_path):
    assert not is_prepared(tmp_path)
    write_prepared_json(tmp_path, {"诗": {"folder": "00", "share": 2.0}})
    assert is_prepared(tmp_path)
    found = read_prepared(tmp_path)
    assert found == json.loads((tmp_path / "prepared.json").read_text(encoding="utf-8"))
    assert found["sources"]["诗"]["share"] == 2.0


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"format": FORMAT + 1}, rf"format={FORMAT + 1}: this gptjax reads {FORMAT}, 4, 3; .*python -m data\.prepare"),
        ({"format": None}, r"format=None: this gptjax reads"),
        ({"format": 2}, r"format=2: this gptjax reads"),
        ({"mixture": ...}, r"has no mixture; remove the folder"),
        ({"sources": {"a": {"folder": "00"}}}, r"source 'a' has no attribution, citation, .*share"),
        ({"sources": {"a": []}}, r"source 'a' is a list"),
    ],
)
def test_what_is_wrong_is_said_with_the_name_of_the_file(tmp_path, change, said):
    write_prepared_json(tmp_path, {"a": {}})
    content = json.loads((tmp_path / "prepared.json").read_text()) | change
    (tmp_path / "prepared.json").write_text(json.dumps({k: v for k, v in content.items() if v is not ...}))
    with pytest.raises(ValueError, match=rf"{tmp_path}/prepared\.json: {said}"):
        read_prepared(tmp_path)


def test_a_folder_of_format_3_need_not_say_what_came_with_format_4(tmp_path):
    write_prepared_json(tmp_path, {"a": {}})
    content = json.loads((tmp_path / "prepared.json").read_text()) | {"format": 3}
    for field in ("documents", "left_out", "warning"):
        del content["sources"]["a"][field]
    del content["share"]
    (tmp_path / "prepared.json").write_text(json.dumps(content))
    assert read_prepared(tmp_path) == content
    (tmp_path / "prepared.json").write_text(json.dumps(content | {"format": 4}))
    with pytest.raises(ValueError, match="has no share"):
        read_prepared(tmp_path)


def test_a_file_that_is_no_json_or_missing_is_named(tmp_path):
    for content, said in ((None, "is missing"), ("{", "not JSON: "), ("[]", "is no JSON object")):
        if content is not None:
            (tmp_path / "prepared.json").write_text(content)
        with pytest.raises(ValueError, match=rf"{tmp_path}/prepared\.json: {said}"):
            read_prepared(tmp_path)


def test_what_an_old_run_says_of_its_text_is_read_whatever_it_lacks(tmp_path):
    """Its format is older than any prepared folder that is read."""
    (tmp_path / "data.json").write_text('{"format": 2, "content": "ab", "sources": {"a": {}}}')
    assert read_description(tmp_path / "data.json")["content"] == "ab"
