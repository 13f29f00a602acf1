"""The chat page as text; what it does in a browser is tests/campaigns/chat_page.py's."""

import json
import re
from collections import Counter
from pathlib import Path

import gptjax

PAGE = (Path(gptjax.__file__).parent / "serving" / "page" / "index.html").read_text(encoding="utf-8")
MARKUP = re.sub(r"<(style|script)\b.*?</\1>|<!--.*?-->", "", PAGE, flags=re.DOTALL)
[STYLE] = re.findall(r"<style>(.*?)</style>", PAGE, flags=re.DOTALL)
[PROGRAM] = re.findall(r'<script type="module">(.*?)</script>', PAGE, flags=re.DOTALL)
[WORDS] = re.findall(r'<script type="application/json" id="words">(.*?)</script>', PAGE, flags=re.DOTALL)


def once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    twins = [name for name, count in Counter(name for name, _ in pairs).items() if count > 1]
    assert not twins
    return dict(pairs)


def words() -> dict[str, dict[str, str]]:
    return json.loads(WORDS, object_pairs_hook=once)


def test_both_languages_have_the_same_words():
    """The same keys, each once, each saying something, with the same blanks to be filled in."""
    english, chinese = words()["en"], words()["zh"]
    assert list(english) == list(chinese)
    for key, text in english.items():
        assert text.strip(), key
        assert chinese[key].strip(), key
        assert sorted(re.findall(r"\{\w+\}", text)) == sorted(re.findall(r"\{\w+\}", chinese[key])), key


def test_every_word_that_is_shown_is_in_the_table_and_none_is_left_over():
    """What the markup and the program name, and what begins or ends as the program puts it together: fail_..."""
    known = set(words()["en"])
    marked = {*re.findall(r'data-(?:t|label|hint)="(\w+)"', MARKUP)}
    assert marked | {*re.findall(r'\bt\("(\w+)"', PROGRAM)} <= known
    begun = tuple(re.findall(r"\bt\(`(\w+)\$\{", PROGRAM))
    ended = tuple(re.findall(r"\bt\(`\$\{\w+\}(\w+)`", PROGRAM))
    named = marked | {*re.findall(r'"(\w+)"', PROGRAM)}
    assert [key for key in known - named if not key.startswith(begun) and not key.endswith(ended)] == []
    kinds = re.findall(r'Failure\("(\w+)"|"(long)"|"([45]\d\d)"', PROGRAM)
    assert {f"fail_{''.join(kind)}" for kind in kinds} == {key for key in known if key.startswith("fail_")}


def test_the_page_names_no_address_outside():
    """No address with a host but the name spaces of SVG, no import, no attribute that loads."""
    outside = {*re.findall(r"""\b(?:https?:)?//[\w.-]+\.\w+[^\s'"`)]*""", MARKUP + STYLE + PROGRAM)}
    assert {address.split(":", 1)[-1] for address in outside} <= {"//www.w3.org/2000/svg"}
    assert not re.search(r"@import|url\(|@font-face", STYLE)
    assert not re.search(r"\bimport\b", PROGRAM)
    assert {*re.findall(r'\b(?:src|href|action|srcset)="([^"]{0,5})', MARKUP)} <= {"data:", "#entr"}


def test_texts_are_set_as_text_and_never_as_html():
    """Nothing that parses HTML or runs text, and no handler or style in the markup, which a strict policy refuses."""
    parsing = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|\beval\b|Function\("
    assert not re.search(parsing, PROGRAM)
    assert 'setAttribute("style"' not in PROGRAM
    assert not re.search(r'\s(?:on\w+|style)="', MARKUP)
    assert "textContent" in PROGRAM


def test_every_field_and_button_of_the_markup_has_a_name():
    """A label, an aria-label in both languages, or text of its own."""
    labelled = {*re.findall(r'<label for="(\w+)"', MARKUP)}
    for tag, attributes in re.findall(r"<(button|input|textarea|select)\b([^>]*)>", MARKUP):
        name = re.search(r'id="([\w-]+)"', attributes)
        named = "data-t=" in attributes or "data-label=" in attributes or (name and name[1] in labelled)
        assert named or (name and name[1] in {"entry", "theme", "new", "live", "remember"}), (tag, attributes)
