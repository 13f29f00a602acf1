"""wiki_leads: one example an article."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

from data.corpora.corpus_builder import CorpusBuilder
from data.corpora.wiki_leads import CORPUS


class Builder(CorpusBuilder, card=CORPUS):
    """Title and opening of an article; `topic` is the editors' class of it, in the article's language."""

    @staticmethod
    def examples(path: Path) -> Iterator[tuple[str, dict[str, str]]]:
        for id, article in json.loads(path.read_text(encoding="utf-8")).items():
            lead = clean(article["extract"])
            # left out: a list of meanings, cut off before the list; a formula that lost its form
            if not lead.endswith(":") and "\\end{" not in lead:
                yield id, {"text": f"{clean(article['title'])}\n\n{lead}\n", "topic": article["topic"]}


def clean(text: str) -> str:
    """Plain spaces only, one paragraph a line, without footnote marks and what removed pronunciations leave behind."""
    text = re.sub("[\u200b\u200e\u2060\ufeff]", "", text)
    text = re.sub(r"\s*\[\d+\]", "", text)
    text = re.sub(r"\(\s*[,;]\s*", "(", text)
    text = re.sub(r"\s*\(\s*\)", "", text)
    lines = (" ".join(line.split()) for line in text.splitlines())
    return "\n".join(re.sub(r" ([,.])(?=\s|$)", r"\1", line) for line in lines if line)
