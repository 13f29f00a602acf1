"""docs/traps.md lists every known mistake once, and each test that it names is there."""

import re
from pathlib import Path

TESTS = Path(__file__).parent
ROWS = re.findall(
    r"^\| (\d+) \| (.*?) \| (.*) \|$", (TESTS.parent / "docs" / "traps.md").read_text("utf-8"), re.MULTILINE
)


def test_every_mistake_has_its_line():
    """Numbers 1 to 42, in order; each is caught by a test, or says what is not built yet."""
    assert [int(number) for number, _, _ in ROWS] == list(range(1, 43))
    assert all("::" in caught or caught.startswith("– ") for _, _, caught in ROWS)


def test_every_test_that_is_named_is_there():
    """A test that is renamed or goes away is found here."""
    named = [pair for _, _, caught in ROWS for pair in re.findall(r"`(test_\w+\.py)::(test_\w+)`", caught)]
    assert len(named) > 50
    sources = {path.name: path.read_text("utf-8") for path in TESTS.rglob("test_*.py")}
    missing = [f"{file}::{test}" for file, test in named if f"def {test}(" not in sources[file]]
    assert missing == []
