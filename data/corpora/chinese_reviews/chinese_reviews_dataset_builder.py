"""chinese_reviews: one example a review."""

import re
from collections.abc import Iterator
from pathlib import Path

from data.corpora.chinese_reviews import CORPUS
from data.corpora.corpus_builder import CorpusBuilder

SENTIMENT = {"neg": "negative", "pos": "positive"}  # by name of the file


class Builder(CorpusBuilder, card=CORPUS):
    """Reviews, one line each; every one stands in its file about twice and is given once."""

    @staticmethod
    def examples(path: Path) -> Iterator[tuple[str, dict[str, str]]]:
        reviews = dict.fromkeys(map(clean, path.read_text(encoding="utf-8").splitlines()))
        for number, review in enumerate(filter(None, reviews)):
            yield f"{path.stem}/{number}", {"text": f"{review}\n", "sentiment": SENTIMENT[path.stem]}


def clean(review: str) -> str:
    """Single spaces; without characters that only the shop's own font had."""
    return " ".join(re.sub("[\ue000-\uf8ff]", "", review).split())
