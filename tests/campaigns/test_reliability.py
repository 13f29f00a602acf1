"""docs/reliability.md names the tests that there are: every fault is tried, and the page cannot go stale."""

import ast
import re
from pathlib import Path

import pytest

from tests.campaigns.reliability import PAGE, page, result
from tests.faults import FAULTS

TESTS = Path(__file__).parents[1]


def marked() -> dict[int, set[str]]:
    """Names of the tests of each fault, as the page writes them."""
    found: dict[int, set[str]] = {}
    for path in TESTS.rglob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            for mark in node.decorator_list if isinstance(node, ast.FunctionDef) else []:
                if ast.unparse(mark).startswith("pytest.mark.fault("):
                    for number in ast.literal_eval(ast.unparse(mark).removeprefix("pytest.mark.fault")[:-1] + ",)"):
                        found.setdefault(number, set()).add(f"{path.name}::{node.name}")
    return found


def test_every_fault_has_a_test_and_every_mark_a_fault():
    assert marked().keys() == FAULTS.keys()


def test_the_page_names_the_marked_tests_and_no_others():
    """Where this fails: python -m tests.campaigns.reliability"""
    rows = dict(re.findall(r"^\| (\d+) \|(.*)$", PAGE.read_text(encoding="utf-8"), re.MULTILINE))
    assert {int(number): set(re.findall(r"`(test_\w+\.py::\w+)`", row)) for number, row in rows.items()} == marked()


@pytest.mark.parametrize(
    ("outcomes", "found"),
    [
        ({"a": ["passed", "passed"], "b": ["passed"]}, "right"),
        ({"a": ["passed", "failed"], "b": ["passed"]}, "**wrong**"),
        ({"a": ["skipped"], "b": ["passed"]}, "right"),
        ({"a": ["skipped"]}, "not tried"),
        ({}, "not tried"),
    ],
)
def test_one_failure_is_wrong_and_no_test_is_not_tried(outcomes, found):
    assert result(outcomes) == found


def test_the_page_is_what_is_right_now_but_for_its_results():
    """Faults, words and exit codes: the same text around the tests and their results."""
    tests = {number: {f"tests/{name}": ["passed"] for name in names} for number, names in marked().items()}
    bare = re.compile(r"\| (right|\*\*wrong\*\*|not tried) \|$|^Of \d+ faults.*$", re.MULTILINE)
    assert bare.sub("", PAGE.read_text(encoding="utf-8")) == bare.sub("", page(tests))
