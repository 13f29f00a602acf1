"""king_james_bible: one example a chapter."""

import itertools
import json
from collections.abc import Iterator
from pathlib import Path

from data.corpora.corpus_builder import CorpusBuilder
from data.corpora.king_james_bible import CORPUS


class Builder(CorpusBuilder, card=CORPUS):
    """Chapters: book and number, an empty line, then one verse a line."""

    @staticmethod
    def examples(path: Path) -> Iterator[tuple[str, dict[str, str]]]:
        with path.open(encoding="utf-8") as lines:
            verses = [json.loads(line) for line in lines]
        for (book, chapter), of_chapter in itertools.groupby(verses, lambda verse: (verse["book"], verse["chapter"])):
            # one verse that this edition counts elsewhere stands as an empty pair of brackets
            texts = [" ".join(verse["text"].split()) for verse in of_chapter if verse["text"] != "[]"]
            heading = f"{book} {chapter}"
            yield heading, {"text": f"{heading}\n\n" + "".join(f"{text}\n" for text in texts)}
