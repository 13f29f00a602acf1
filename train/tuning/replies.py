"""How well a model replies, in its own way of talking: by conversations that neither pretraining nor tuning has read.

The text of a reply is scored apart from the token that ends it, so that models which end turns otherwise compare.
"""

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data.description import read_prepared
from data.examples.preparing import TALKS
from data.preparation.prepared_folder import stored_text
from gptjax.inference.language_model import LanguageModel
from gptjax.inference.learned_spans import ConversationEncoder
from gptjax.inference.prompt import encode_prompts
from gptjax.inference.scoring import Row
from gptjax.text.tokenizer import SPEAKERS, dialogue_text

Message = Mapping[str, str]
MEASURED_TOKENS = 20_000  # of all that is read to score replies
FORGOTTEN_BYTES = 30_000  # of the base's held-out text, over all of its sources
GREEDY, LONGEST, SHOWN = 32, 64, 10  # replies that are written, tokens of the longest, and those that are shown


class Turn(NamedTuple):
    """A reply to be scored: what the model reads before it, the reply itself, and the token that ends it."""

    prompt: list[int]
    reply: list[int]
    end: int


@dataclasses.dataclass(frozen=True)
class Talking:
    """How good the replies of one model are."""

    nats: float  # a token of the replies' text
    replies: int  # that were scored
    ending: float  # mean probability of ending the turn where a reply ends
    stops: float  # share of greedy replies that end by themselves within 64 tokens
    length: float  # median tokens of these
    forgotten: dict[str, float]  # held-out running text -> bits a byte


class Speaker:
    """A model as it talks: by its chat template, or in lines of A and B, which a line's end closes."""

    def __init__(self, model: LanguageModel):
        self.model = model
        config = model.generation_config
        self._encoder = None if config.chat_template is None else ConversationEncoder(model.tokenizer, config)

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """What it reads before it answers."""
        if self._encoder is not None:
            return self._encoder.prompt(messages)
        return self._encoded(_lines(messages) + f"{SPEAKERS[1]}:")

    def turn(self, messages: Sequence[Message]) -> Turn | None:
        """The last message as a reply to those before it; None where tokens join across its beginning."""
        prompt = self.prompt(messages[:-1])
        if self._encoder is not None:
            learn = [False] * (len(messages) - 1) + [True]
            ids, learned = self._encoder.encode(messages, learn)
            end = max(np.flatnonzero(learned).tolist())
        else:
            ids = self._encoded(_lines(messages))
            end = len(ids) - 1
        return Turn(prompt, ids[len(prompt) : end], ids[end]) if ids[: len(prompt)] == prompt else None

    def greedy(self, prompts: Sequence[Sequence[Message]]) -> list[Any]:
        """Its most probable replies, as samples of LanguageModel.generate."""
        stop = ("\n",) if self._encoder is None else ()
        room = self.model.config.T - LONGEST
        given = [self.prompt(messages) for messages in prompts]
        found = self.model.generate([ids[-room:] for ids in given], tokens=LONGEST, temperature=0.0, stop=stop)
        return [samples[0] for samples in found]

    def _encoded(self, text: str) -> list[int]:
        return encode_prompts(self.model.tokenizer, self.model.generation_config, [text])[0]


def measured(
    model: LanguageModel, conversations: Sequence[Sequence[Message]], texts: Mapping[str, Sequence[str]]
) -> tuple[Talking, list[str]]:
    """(figures of a model's replies, its greedy replies to the first turns)."""
    speaker = Speaker(model)
    turns = list(_within_budget(speaker, conversations))
    rows = [
        Row(
            ids=[*turn.prompt, *turn.reply],
            at=list(range(len(turn.prompt) - 1, len(turn.prompt) + len(turn.reply))),
            targets=[*turn.reply, turn.end],
        )
        for turn in turns
    ]
    scored = [scores.log_probs.astype(np.float64) for scores in model.score(rows)]
    replies = speaker.greedy([prompt for prompt, _ in _first_exchanges(conversations, GREEDY)])
    by_itself = [sample for sample in replies if sample.ended in ("eos", "stop")]
    return Talking(
        nats=-float(np.concatenate([log_probs[:-1] for log_probs in scored]).mean()),
        replies=len(turns),
        ending=float(np.mean([np.exp(log_probs[-1]) for log_probs in scored])),
        stops=len(by_itself) / len(replies),
        length=float(np.median([len(sample.ids) for sample in replies])),
        forgotten={name: model.perplexity(own).metrics["bits a byte"].value for name, own in texts.items()},
    ), [sample.text.strip() for sample in replies]


def _within_budget(speaker: Speaker, conversations: Sequence[Sequence[Message]]) -> Iterator[Turn]:
    """Replies of the conversations in turn, first turns first, as many as the budget has room for."""
    spent, T = 0, speaker.model.config.T
    for depth in range(max(map(len, conversations))):
        for messages in conversations:
            if depth >= len(messages) or messages[depth]["role"] != "assistant":
                continue
            turn = speaker.turn(messages[: depth + 1])
            size = 0 if turn is None else len(turn.prompt) + len(turn.reply)
            if turn is None or not turn.reply or size > T:
                continue
            if (spent := spent + size) > MEASURED_TOKENS:
                return
            yield turn


def _first_exchanges(conversations: Sequence[Sequence[Message]], count: int) -> list[tuple[Sequence[Message], str]]:
    """(messages up to the first reply, that reply) of conversations, evenly spread over them."""
    found = []
    for messages in conversations:
        at = next(n for n, message in enumerate(messages) if message["role"] == "assistant")
        found.append((messages[:at], messages[at]["content"]))
    return found[:: max(1, len(found) // count)][:count]


def _lines(messages: Sequence[Message]) -> str:
    """What pretraining wrote of such a conversation: see gptjax.text.tokenizer.dialogue_text."""
    said = [message["content"] for message in messages if message["role"] in ("user", "assistant")]
    return dialogue_text(said)


def held_out_conversations(prepared: Path) -> list[list[dict[str, str]]]:
    """The conversations of all sources that were held out, taking turns."""
    by_source = []
    for source in read_prepared(prepared)["sources"].values():
        if source.get("whole"):
            lines = (prepared / source["folder"] / "validation" / TALKS).read_text(encoding="utf-8").splitlines()
            by_source.append([json.loads(line)["messages"] for line in lines])
    most = max(map(len, by_source))
    return [talks[n] for n in range(most) for talks in by_source if n < len(talks)]


def held_out_texts(running: Path) -> dict[str, list[str]]:
    """Source -> beginnings of its held-out documents, by which forgetting is measured."""
    sources = read_prepared(running)["sources"]
    found: dict[str, list[str]] = {}
    for name, source in sources.items():
        room, texts = FORGOTTEN_BYTES // len(sources), []
        for text in stored_text(running, source["folder"], "validation"):
            texts.append(text[:1000])
            room -= len(texts[-1].encode())
            if room <= 0:
                break
        found[name] = texts
    return found


def compared(
    before: tuple[Talking, list[str]], after: tuple[Talking, list[str]], conversations: Sequence[Sequence[Message]]
) -> dict[str, Any]:
    """What `replies.json` holds: figures before and after, and replies side by side."""
    exchanges = _first_exchanges(conversations, GREEDY)[:SHOWN]
    samples = [
        {"prompt": prompt[-1]["content"], "person": reply, "before": old, "after": new}
        for (prompt, reply), old, new in zip(exchanges, before[1], after[1], strict=False)
    ]
    return {"before": dataclasses.asdict(before[0]), "after": dataclasses.asdict(after[0]), "samples": samples}
