"""docs/serving.md is true: what is ignored, what is tried, and by which tests."""

import re
from pathlib import Path

from gptjax.serving.api.requests import IGNORED

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "serving.md").read_text()


def test_the_fields_that_are_ignored_are_listed():
    """All of them, and no other."""
    [line] = re.findall(r"^Ignored, for they change no text: (.*?)\.$", PAGE, re.MULTILINE | re.DOTALL)
    assert set(re.findall(r"`(\w+)`", line)) == IGNORED


def test_every_fault_in_the_table_is_tried_by_a_test_that_there_is():
    """At least thirty; by the name of its file and its own."""
    rows = re.findall(r"^\| (\d+) \| .* \| `(\S+)::(\w+)` \|$", PAGE, re.MULTILINE)
    assert [int(number) for number, _, _ in rows] == list(range(1, len(rows) + 1))
    assert len(rows) >= 30
    for _, file, test in rows:
        assert re.search(rf"def {test}\b", (ROOT / "tests" / file).read_text()), f"{file}::{test}"
