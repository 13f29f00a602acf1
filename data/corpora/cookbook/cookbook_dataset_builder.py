"""cookbook: one example a recipe."""

import json
from collections.abc import Iterator
from pathlib import Path

from data.corpora.cookbook import CORPUS
from data.corpora.corpus_builder import CorpusBuilder


class Builder(CorpusBuilder, card=CORPUS):
    """Title, a list of ingredients, numbered steps."""

    @staticmethod
    def examples(path: Path) -> Iterator[tuple[str, dict[str, str]]]:
        for id, recipe in json.loads(path.read_text(encoding="utf-8")).items():
            ingredients = "".join(f"- {line(ingredient)}\n" for ingredient in recipe["ingredients"])
            steps = "".join(f"{number}. {line(step)}\n" for number, step in enumerate(recipe["steps"], start=1))
            yield id, {"text": f"{line(recipe['title'])}\n\n{ingredients}\n{steps}"}


def line(text: str) -> str:
    """One line with single spaces; the ring that some authors took for a degree sign is one."""
    return " ".join(text.replace("˚", "°").replace("º", "°").split())
