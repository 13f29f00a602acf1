"""python_library: one example a module, or a topic of the language reference."""

import ast
import tokenize
from collections.abc import Iterator
from pathlib import Path

from data.corpora.corpus_builder import CorpusBuilder
from data.corpora.python_library import CORPUS


class Builder(CorpusBuilder, card=CORPUS):
    """Modules as they are written; the topics, prose kept in a dictionary, one by one."""

    @staticmethod
    def examples(path: Path) -> Iterator[tuple[str, dict[str, str]]]:
        name = "/".join(path.parts[-3:])  # no two modules share that much
        with tokenize.open(path) as module:  # honours the encoding that a module declares
            source = module.read().strip()
        if path.name == "topics.py":
            [topics] = (node.value for node in ast.parse(source).body if isinstance(node, ast.Assign))
            for topic, text in ast.literal_eval(topics).items():
                yield f"{name}/{topic}", {"text": f"{text.strip()}\n"}
        elif source:
            yield name, {"text": f"{source}\n"}
