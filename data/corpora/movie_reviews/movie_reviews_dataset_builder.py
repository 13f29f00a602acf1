"""movie_reviews: one example a review."""

import csv
import html
import re
from collections.abc import Iterator
from pathlib import Path

from data.corpora.corpus_builder import CorpusBuilder
from data.corpora.movie_reviews import CORPUS

SENTIMENT = {"0": "negative", "1": "positive"}
# punctuation of Windows that was read as Latin-1, and two stray controls
WINDOWS = {code: bytes([code]).decode("cp1252", "ignore") for code in range(0x80, 0xA0)} | {0x08: "", 0x10: ""}


class Builder(CorpusBuilder, card=CORPUS):
    """Reviews of IMDB; the snippets of Rotten Tomatoes in the same file, in lower case, are left out."""

    @staticmethod
    def examples(path: Path) -> Iterator[tuple[str, dict[str, str]]]:
        with path.open(encoding="utf-8", newline="") as file:
            for number, row in enumerate(csv.DictReader(file)):
                if row["source"] == "imdb":
                    yield str(number), {"text": f"{clean(row['text'])}\n", "sentiment": SENTIMENT[row["label"]]}


def clean(review: str) -> str:
    """Paragraphs with an empty line between them, without HTML; dashes and quotation marks as they were typed."""
    review = re.sub(r"(\s*<br />\s*)+", "\n\n", review)
    review = html.unescape(re.sub(r"</?(i|em|hr)>", "", review)).translate(WINDOWS)
    return "\n".join(" ".join(line.split()) for line in review.splitlines()).strip()
