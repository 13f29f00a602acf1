"""A conversation as one example, or as several where it is longer than a row, cut between exchanges."""

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from data.examples.forms import Message
from gptjax.inference.learned_spans import ConversationEncoder, Rendered
from gptjax.text.tokenizer import Tokenizer

ROOM = 2  # tokens by which a row may be guessed to be too small before it is tried


class Left(NamedTuple):
    """A conversation, or an exchange of it, that no example is made of."""

    reason: str


class Fitter:
    """Examples of at most T tokens."""

    def __init__(self, encoder: ConversationEncoder, tokenizer: Tokenizer, T: int, cuts: bool):
        self._encoder, self._tokenizer, self._T, self._cuts = encoder, tokenizer, T, cuts
        turns = [{"role": "user", "content": "What is it?"}, {"role": "assistant", "content": "It is this."}]
        once, twice = (len(encoder.encode(turns * n, [False, False] * n).ids) for n in (1, 2))
        said = sum(map(len, self._tokenizer.encode_batch([turn["content"] for turn in turns])))
        self._around = twice - once - said  # tokens that the template adds to an exchange, or so

    def examples(self, messages: Sequence[Message]) -> Iterator[Rendered | Left]:
        """The examples of a conversation, and what is left of it.

        A system message begins each of them. An exchange is a user's turn with all up to the next one; as many go
        together as a row has room for.
        """
        system, exchanges = _exchanges(messages)
        # a template may make one space of many, so that more may fit than the text as it is says
        said = self._tokenizer.encode_batch([" ".join(message.content.split()) for message in messages])
        sizes, at = [], len(system)
        for exchange in exchanges:
            sizes.append(sum(map(len, said[at : at + len(exchange)])) + self._around)
            at += len(exchange)
        begin, of_system = 0, sum(map(len, said[: len(system)]))
        while begin < len(exchanges):
            room = np.cumsum(sizes[begin:]) + of_system <= self._T + ROOM
            end = begin + max(1, int(room.sum()))
            made, end = self._most([*system], exchanges, begin, end)
            if end < len(exchanges) and not self._cuts:
                yield Left(f"longer than a row of {self._T} tokens")
                return
            yield made
            begin = end

    def _most(
        self, system: list[Message], exchanges: Sequence[list[Message]], begin: int, end: int
    ) -> tuple[Rendered | Left, int]:
        """(an example of the exchanges from `begin` to before `end`, or of fewer where these are too many; its end)."""
        for stop in range(end, begin, -1):
            messages = [*system, *(message for exchange in exchanges[begin:stop] for message in exchange)]
            if not any(message.learn for message in messages):
                return Left("nothing in it is to be learnt"), stop
            given = [{"role": message.role, "content": message.content} for message in messages]
            try:
                made = self._encoder.encode(given, [message.learn for message in messages])
            except ValueError as error:
                return Left(f"its template: {_kind(error)}"), stop
            if len(made.ids) <= self._T:
                return made, stop
        return Left(f"an exchange longer than a row of {self._T} tokens"), begin + 1


def _kind(error: ValueError) -> str:
    """What an error says without what is of one conversation alone, so that it can be counted."""
    return re.sub(r"'[^']*'|\"[^\"]*\"|\d+", "...", str(error))[:100]


def _exchanges(messages: Sequence[Message]) -> tuple[list[Message], list[list[Message]]]:
    """(system messages, exchanges: each begins with a user's turn)."""
    system = [message for message in messages if message.role == "system"]
    exchanges: list[list[Message]] = []
    for message in messages:
        if message.role == "user" or (message.role != "system" and not exchanges):
            exchanges.append([])
        if message.role != "system":
            exchanges[-1].append(message)
    return system, exchanges
