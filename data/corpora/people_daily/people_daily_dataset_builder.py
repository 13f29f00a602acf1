"""people_daily: one example an article."""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from data.corpora.corpus_builder import CorpusBuilder
from data.corpora.people_daily import CORPUS

# letters and digits of the newspaper's type are as wide as a character
NARROW = {
    code: code - 0xFEE0 for run in ("０９", "ＡＺ", "ａｚ", "％％") for code in range(ord(run[0]), ord(run[1]) + 1)
}


class Builder(CorpusBuilder, card=CORPUS):
    """Articles: headlines and authors, then one paragraph a line."""

    @staticmethod
    def examples(path: Path) -> Iterator[tuple[str, dict[str, str]]]:
        with path.open(encoding="utf-8") as lines:
            for number, article in enumerate(articles(map(clean, lines))):
                yield str(number), {"text": "".join(f"{paragraph}\n" for paragraph in article)}


def clean(line: str) -> str:
    """A paragraph without the word boundaries and `/tag` marks that somebody added."""
    text = "".join(word.rpartition("/")[0] for word in line.split())
    return re.sub(r"(?<=\d)．(?=\d)", ".", text.translate(NARROW))


def articles(paragraphs: Iterable[str]) -> Iterator[list[str]]:
    """Paragraphs by article: one begins where a line without a full stop (a headline) follows one that has it."""
    article, in_body = [], False
    for paragraph in paragraphs:
        is_body = re.search(r"[。！？…：；][”’）]*$", paragraph) is not None
        if in_body and not is_body:
            yield article
            article = []
        article.append(paragraph)
        in_body = is_body
    yield article
