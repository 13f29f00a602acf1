"""bbc_news: one example an article."""

from collections.abc import Iterator
from pathlib import Path

from data.corpora.bbc_news import CORPUS
from data.corpora.corpus_builder import CorpusBuilder


class Builder(CorpusBuilder, card=CORPUS):
    """Headline, an empty line, paragraphs; `category` is the section of the newspaper."""

    @staticmethod
    def examples(path: Path) -> Iterator[tuple[str, dict[str, str]]]:
        category = path.parent.name
        yield f"{category}/{path.stem}", {"text": clean(path.read_bytes()), "category": category}


def clean(raw: bytes) -> str:
    """Paragraphs of single spaces with an empty line between them; one file is not in UTF-8."""
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        text = raw.decode("cp1252")
    return "\n\n".join(" ".join(line.split()) for line in text.splitlines() if line.strip()) + "\n"
