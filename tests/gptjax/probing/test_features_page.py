"""The page of what vectors hold: it says what is so, and nothing that a text holds is taken for HTML."""

import re
from html.parser import HTMLParser

import numpy as np

from gptjax.probing.features_page import page

TEXTS = [f"<b>text</b> {number} & 狐狸" for number in range(40)]
LABELS = ["<i>" if number % 2 else "odd\"' label" for number in range(40)]
VECTOR_ID = np.random.default_rng(0).normal(size=(40, 6)) + np.eye(6)[1] * 9 * (np.arange(40)[:, None] % 2)


class Tags(HTMLParser):
    """The elements of a page, each opened and closed in its turn."""

    def __init__(self, content):
        super().__init__()
        self.open, self.found = [], []
        self.feed(content)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        if tag not in ("meta", "link"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_shows_the_probe_beside_tf_idf_the_map_and_the_neighbours():
    """In elements that are closed, without an address, a program, or a text's own HTML."""
    made = page("a <model>", "forty texts.", TEXTS, LABELS, VECTOR_ID)
    tags = Tags(made).found
    assert [tag for tag, _ in tags].count("circle") == 40
    assert not {tag for tag, _ in tags} & {"b", "i", "script", "img"}
    assert "http" not in made
    assert re.search(r"these vectors</td><td class=\"number\">(9\d|100)\.\d% \(", made)
    assert re.search(r"always</td><td class=\"number\">50\.0% \(", made)
    assert "TF-IDF" in made
    assert {attrs.get("class") for tag, attrs in tags if tag == "circle"} == {"k0", "k1"}
    shown = re.search(r"(\d+)% of the nearest have the label of their text; of any two texts 49% ", made)
    assert int(shown[1]) > 80


def test_without_labels_there_is_a_map_and_how_to_get_a_probe():
    """And rare classes are left out of a probe that there is, which is said; further colours are one."""
    assert "with --label FIELD" in page("a", "b", TEXTS, None, VECTOR_ID)
    made = page("a", "b", TEXTS, [*LABELS[:-1], "rare"], VECTOR_ID)
    assert "Left out, as their classes have fewer than 5 texts: 1." in made
    assert "</span>others" not in made
    many = ["x"] * 10 + ["y"] * 10 + [f"rare {number}" for number in range(20)]
    assert "</span>others 12" in page("a", "b", TEXTS, many, VECTOR_ID)
