"""chatterbot: one example a question and its answer, or a conversation."""

from collections.abc import Iterator
from pathlib import Path

import yaml

from data.corpora.chatterbot import CORPUS
from data.corpora.corpus_builder import CorpusBuilder
from gptjax.text.tokenizer import dialogue_text

DIALOGUES = ("conversations", "greetings", "health")  # elsewhere a question stands with its several possible answers


class Builder(CorpusBuilder, card=CORPUS):
    """Dialogues as lines of `A:` and `B:`."""

    @staticmethod
    def examples(path: Path) -> Iterator[tuple[str, dict[str, str]]]:
        conversations = yaml.safe_load(path.read_text(encoding="utf-8"))["conversations"]
        texts = (dialogue_text(turns) for entry in conversations for turns in dialogues(entry, path.stem))
        for number, text in enumerate(dict.fromkeys(texts)):  # the English file on repairs says most things ten times
            yield f"{path.stem}/{number}", {"text": text}


def dialogues(entry: list[str] | str, topic: str) -> Iterator[list[str]]:
    """The dialogues of one entry; none where it is a line that lost its form, or holds code."""
    if isinstance(entry, str) or any("\n" in str(turn).strip() for turn in entry):
        return
    question, *answers = (str(turn).strip() for turn in entry)
    if topic in DIALOGUES:
        yield [question, *answers]
    else:
        yield from ([question, answer] for answer in answers if answer.casefold() != question.casefold())
