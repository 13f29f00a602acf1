"""gptjax.look.look_page: one file that asks for nothing outside, and that no text can break out of."""

import json
import re
from pathlib import Path

import pytest

from gptjax.look.look_page import TEMPLATE, page, seen
from tests.gptjax.look.test_looking import TEXT
from tests.headed_model import headed_model


@pytest.fixture(scope="module")
def look():
    return headed_model().look(TEXT)


def held(text):
    """What the page's program reads."""
    [found] = re.findall(r'<script type="application/json" id="seen">(.*?)</script>', text, re.DOTALL)
    return json.loads(found)


def as_held(found):
    """The same of what `seen` says."""
    return json.loads(json.dumps(found, default=list).replace("NaN", "null"))


def test_the_page_holds_what_was_seen_and_no_text_ends_it_early(look):
    text = page(look, "<i>name</i>")
    assert held(text) == as_held(seen(look, "<i>name</i>"))
    assert "<b>x</b>" not in text
    assert "<i>name</i>" not in text
    assert text.count("</script>") == TEMPLATE.read_text(encoding="utf-8").count("</script>")


def test_the_page_names_no_address_outside(look):
    """But for the name space of its icon's drawing."""
    addresses = re.findall(r"\w+://[^\s'\"]+", page(look, "model"))
    assert set(addresses) == {"http://www.w3.org/2000/svg"}
    assert not re.search(r"(src|href)=\"(?!data:)", page(look, "model"))


def test_nothing_of_the_page_is_refused_by_a_strict_policy():
    """The server's, which lets its one program and style run: no handler or style stands in the markup."""
    text = TEMPLATE.read_text(encoding="utf-8")
    assert not re.search(r'\s(?:on\w+|style)="', re.sub(r"<(style|script)\b.*?</\1>", "", text, flags=re.DOTALL))
    assert not re.search(r"setAttribute\(\"(?:style|on)|innerHTML|insertAdjacentHTML|document\.write|\beval\b", text)


def test_the_tokens_of_the_page_are_those_of_the_text(look):
    found = held(page(look, "model"))
    plain = [piece for piece in found["pieces"] if not piece[3]]
    shown = ["".join(c for c, n, of in parts if n == of) + text for _, text, parts, _ in plain]
    assert "".join(shown) == TEXT
    assert len(found["ways"]) == 2
    assert [len(way["roles"]) for way in found["ways"]] == [8, 8]
    assert found["words"].keys() >= {str(found["why"]["id"])}


def test_a_saved_page_is_the_page(look, tmp_path):
    path = look.save(tmp_path / "seen.html", "model")
    assert path.read_text(encoding="utf-8") == page(look, "model")
    assert [file.name for file in Path(tmp_path).iterdir()] == ["seen.html"]
