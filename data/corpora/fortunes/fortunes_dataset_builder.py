"""fortunes: one example a fortune."""

import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path

from data.corpora.corpus_builder import CorpusBuilder
from data.corpora.fortunes import CORPUS

ACCENTS = {"'": "\u0301", "`": "\u0300", "^": "\u0302", '"': "\u0308"}  # as a terminal's overstrike wrote them


class Builder(CorpusBuilder, card=CORPUS):
    """Fortunes with the line breaks of their file; a tab begins a paragraph or a signature."""

    @staticmethod
    def examples(path: Path) -> Iterator[tuple[str, dict[str, str]]]:
        fortunes = path.read_text(encoding="latin-1").split("\n%\n")
        for number, fortune in enumerate(fortunes):
            if text := clean(fortune):
                yield str(number), {"text": f"{text}\n"}


def clean(fortune: str) -> str:
    """Overstrikes as a terminal shows them, without bells, trailing spaces and the file's own first entry."""
    if "$FreeBSD$" in fortune:
        return ""
    fortune = re.sub(r"_\x08(.)", r"\1", fortune)
    fortune = re.sub(r"(['`^\"])\x08(.)", lambda pair: pair[2] + ACCENTS[pair[1]], fortune)
    fortune = unicodedata.normalize("NFC", fortune).replace("\x07", "")
    return "\n".join(line.rstrip() for line in fortune.splitlines()).strip()
