"""How well a model replies, in its own way of talking: by conversations that neither pretraining nor tuning has read.

The text of a reply is scored apart from the token that ends it, so that models which end turns otherwise compare.
"""

import contextlib
import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data.description import read_prepared
from data.examples.preparing import TALKS
from data.preparation.prepared_folder import stored_text
from gptjax.inference.continuing import continued
from gptjax.inference.conversation import before_answers
from gptjax.inference.language_model import LanguageModel
from gptjax.inference.learned_spans import ConversationEncoder
from gptjax.inference.prompt import encode_prompts
from gptjax.inference.scoring import Progress, Row
from gptjax.text.tokenizer import SPEAKERS, Tokenizer, dialogue_text

Message = Mapping[str, Any]
MEASURED_TOKENS = 20_000  # of all that is read to score replies
FORGOTTEN_BYTES = 30_000  # of the base's held-out text, over all of its sources
GREEDY, LONGEST, SHOWN = 32, 64, 10  # replies that are written, tokens of the longest, and those that are shown


class Turn(NamedTuple):
    """A reply to be scored: what the model reads before it, the reply itself, and the token that ends it."""

    prompt: list[int]
    reply: list[int]
    end: int
    prefix: int = 0  # first tokens of the prompt that see each other


@dataclasses.dataclass(frozen=True)
class Talking:
    """How good the replies of one model are."""

    nats: float  # a token of the replies' text
    by_source: dict[str, float]  # the same, source by source
    replies: int  # that were scored
    ending: float  # mean probability of ending the turn where a reply ends
    stops: float  # share of greedy replies that end by themselves within 64 tokens
    length: float  # median tokens of these
    forgotten: dict[str, float]  # held-out running text -> bits a byte


class Speaker:
    """A model as it talks: by its chat template, or in lines of A and B, which a line's end closes."""

    def __init__(self, model: LanguageModel):
        self.model, self._encoder = model, None
        if model.generation_config.chat_template is not None:
            with contextlib.suppress(ValueError):  # a template that nothing can be learnt by
                self._encoder = ConversationEncoder(model.tokenizer, model.generation_config)

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """What it reads before it answers."""
        if self._encoder is not None:
            return self._encoder.prompt(messages)
        return self._encoded(_lines(messages) + f"{SPEAKERS[1]}:")

    def prefix(self, messages: Sequence[Message]) -> int:
        """How many of these tokens see each other: see `GenerationConfig.encodes_prompt`."""
        if not self.model.generation_config.encodes_prompt:
            return 0
        return len(self.prompt(before_answers(messages)))

    def turn(self, messages: Sequence[Message]) -> Turn | None:
        """The last message as a reply to those before it; None where the template refuses it, as when it trains, or
        tokens join across its beginning."""
        try:
            prompt = self.prompt(messages[:-1])
        except ValueError:
            return None
        if self._encoder is not None:
            try:
                ids, learned, _ = self._encoder.encode(messages, [False] * (len(messages) - 1) + [True])
            except ValueError:
                return None
            end = max(np.flatnonzero(learned).tolist())
        else:
            ids = self._encoded(_lines(messages))
            end = len(ids) - 1
        if ids[: len(prompt)] != prompt:
            return None
        return Turn(prompt, ids[len(prompt) : end], ids[end], self.prefix(messages[:-1]))

    @property
    def _stop(self) -> tuple[str, ...]:
        """What ends a reply beside the tokens that end texts."""
        return ("\n",) if self._encoder is None else ()

    def has_room(self, messages: Sequence[Message], tokens: int) -> bool:
        """Whether the context holds what it reads before it answers, and so many tokens of an answer."""
        try:
            return len(self.prompt(messages)) + tokens <= self.model.config.T
        except ValueError:  # its template refuses it
            return False

    def write(self, prompts: Sequence[Sequence[Message]], tokens: int, progress: Progress | None = None) -> list[str]:
        """Its most probable replies, at most so many tokens each, for which there is room."""
        encodes = self.model.generation_config.encodes_prompt
        starts = [self.prompt(messages) for messages in prompts]
        return continued(self.model, starts, tokens=tokens, progress=progress, stop=self._stop, prefix=encodes)

    def greedy(self, prompts: Sequence[Sequence[Message]]) -> list[Any]:
        """Its most probable replies, as samples of LanguageModel.generate."""
        room = self.model.config.T - LONGEST
        given = [self.prompt(messages) for messages in prompts]
        seen = [
            max(0, self.prefix(messages) - max(0, len(ids) - room))
            for messages, ids in zip(prompts, given, strict=True)
        ]
        found = self.model.generate(
            [ids[-room:] for ids in given], prefix=seen, tokens=LONGEST, temperature=0.0, stop=self._stop
        )
        return [samples[0] for samples in found]

    def _encoded(self, text: str) -> list[int]:
        return encode_prompts(self.model.tokenizer, self.model.generation_config, [text])[0]


class Exchange(NamedTuple):
    """The last of the messages is a person's reply to those before it."""

    source: str
    messages: Sequence[Message]


def exchanges(conversations: Sequence[Exchange], tokenizer: Tokenizer, T: int) -> list[Exchange]:
    """Replies to be scored: the first ones of all conversations, then the second ones, as many as the budget allows."""
    found, spent = [], 0
    for depth in range(max(len(one.messages) for one in conversations)):
        for source, messages in conversations:
            if depth >= len(messages) or not messages[depth].get("learn", messages[depth]["role"] == "assistant"):
                continue
            so_far = messages[: depth + 1]
            size = sum(map(len, tokenizer.encode_batch([message["content"] for message in so_far])))
            if size + 8 * len(so_far) > T:  # with room for what a template adds
                continue
            if (spent := spent + size) > MEASURED_TOKENS:
                return found
            found.append(Exchange(source, so_far))
    return found


def measured(
    speaker: Speaker, replies: Sequence[Exchange], texts: Mapping[str, Sequence[str]]
) -> tuple[Talking, list[str]]:
    """(figures of a model's replies, its greedy ones in place of the first of them)."""
    model = speaker.model
    turns = [(one.source, turn) for one in replies if (turn := speaker.turn(one.messages)) is not None]
    rows = [
        Row(
            ids=[*turn.prompt, *turn.reply],
            at=list(range(len(turn.prompt) - 1, len(turn.prompt) + len(turn.reply))),
            targets=[*turn.reply, turn.end],
            prefix=turn.prefix,
        )
        for _, turn in turns
    ]
    scored = [scores.log_probs.astype(np.float64) for scores in model.score(rows)]
    of_text = {source: [] for source, _ in turns}
    for (source, _), log_probs in zip(turns, scored, strict=True):
        of_text[source].append(log_probs[:-1])
    written = speaker.greedy([one.messages[:-1] for one in replies[:GREEDY]])
    by_itself = [sample for sample in written if sample.ended in ("eos", "stop")]
    return Talking(
        nats=-float(np.concatenate([log_probs[:-1] for log_probs in scored]).mean()),
        by_source={source: -float(np.concatenate(found).mean()) for source, found in of_text.items()},
        replies=len(turns),
        ending=float(np.mean([np.exp(log_probs[-1]) for log_probs in scored])),
        stops=len(by_itself) / len(written),
        length=float(np.median([len(sample.ids) for sample in written])),
        forgotten={name: model.perplexity(own).metrics["bits a byte"].value for name, own in texts.items()},
    ), [sample.text.strip() for sample in written]


def _lines(messages: Sequence[Message]) -> str:
    """What pretraining wrote of such a conversation: see gptjax.text.tokenizer.dialogue_text."""
    said = [message["content"] for message in messages if message["role"] in ("user", "assistant")]
    return dialogue_text(said)


def held_out_conversations(prepared: Path) -> list[Exchange]:
    """The conversations of all sources that were held out, taking turns."""
    by_source = []
    for name, source in read_prepared(prepared)["sources"].items():
        if source.get("whole"):
            lines = (prepared / source["folder"] / "validation" / TALKS).read_text(encoding="utf-8").split("\n")
            by_source.append([Exchange(name, json.loads(line)["messages"]) for line in lines if line])
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
    before: tuple[Talking, list[str]], after: tuple[Talking, list[str]], replies: Sequence[Exchange]
) -> dict[str, Any]:
    """What `replies.json` holds: figures before and after, and replies side by side."""
    samples = [
        {"prompt": one.messages[-2]["content"], "person": one.messages[-1]["content"], "before": old, "after": new}
        for one, old, new in zip(replies, before[1], after[1], strict=False)
    ]
    figures = {"before": dataclasses.asdict(before[0]), "after": dataclasses.asdict(after[0])}
    return {**figures, "samples": samples[:SHOWN]}
