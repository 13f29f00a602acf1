"""three_kingdoms: one example a chapter."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

from data.corpora.corpus_builder import CorpusBuilder
from data.corpora.three_kingdoms import CORPUS


class Builder(CorpusBuilder, card=CORPUS):
    """Chapters: the heading, then one paragraph a line."""

    @staticmethod
    def examples(path: Path) -> Iterator[tuple[str, dict[str, str]]]:
        for number, chapter in enumerate(json.loads(path.read_text(encoding="utf-8")), start=1):
            yield str(number), {"text": clean(chapter)}


def clean(chapter: str) -> str:
    """Heading and paragraphs without indents. A character that the edition could not print is the sign `□`.

    The edition writes such a character as `?`, or describes it in brackets; its own question mark is `？`.
    """
    chapter = re.sub(r"www\.[\w.]+ *", "", chapter, flags=re.ASCII)
    chapter = re.sub(r"【[^】]*】|\[[^\]]*\]|\?", "□", chapter).replace("......", "……")
    return "".join(f"{line.strip()}\n" for line in chapter.splitlines() if line.strip())
