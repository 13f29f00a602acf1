"""chitchat: one example a conversation."""

import json
from collections.abc import Iterator
from pathlib import Path

from data.corpora.chitchat import CORPUS
from data.corpora.corpus_builder import CorpusBuilder
from gptjax.text.tokenizer import dialogue_text

FEWEST_TURNS = 4  # nearly half of the conversations ended after one


class Builder(CorpusBuilder, card=CORPUS):
    """Conversations of at least four turns, as lines of `A:` and `B:`."""

    @staticmethod
    def examples(path: Path) -> Iterator[tuple[str, dict[str, str]]]:
        for id, conversation in json.loads(path.read_text(encoding="utf-8")).items():
            turns = [turn for messages in conversation["messages"] if (turn := _turn(messages))]
            if len(turns) >= FEWEST_TURNS:
                yield id, {"text": dialogue_text(turns)}


def _turn(messages: list[dict]) -> str:
    """What one speaker sent before the other answered, as one line."""
    return " ".join(text for message in messages if (text := message["text"].strip()))
