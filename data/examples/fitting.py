"""A conversation as one example, or as several where it is longer than a row: cut between exchanges, never within one."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from data.examples.forms import Message
from gptjax.inference.learned_spans import ConversationEncoder, Rendered


class Left(NamedTuple):
    """A conversation, or an exchange of it, that no example is made of."""

    reason: str


class Fitter:
    """Examples of at most T tokens."""

    def __init__(self, encoder: ConversationEncoder, T: int, cuts: bool):
        self._encoder, self._T, self._cuts = encoder, T, cuts

    def examples(self, messages: Sequence[Message]) -> Iterator[tuple[Sequence[Message], Rendered] | Left]:
        """The examples of a conversation with their messages, and what was left of it.

        A system message begins each of them. An exchange is a user's turn with all up to the next one.
        """
        if not any(message.learn for message in messages):
            yield Left("nothing in it is to be learnt")
            return
        whole = self._encoded(messages)
        if whole is None or len(whole.ids) <= self._T:
            yield Left("its template changes earlier turns") if whole is None else (messages, whole)
            return
        if not self._cuts:
            yield Left(f"longer than a row of {self._T} tokens")
            return
        system, exchanges = _exchanges(messages)
        run: list[Message] = []
        made: Rendered | None = None
        for exchange in exchanges:
            longer = self._encoded([*system, *run, *exchange])
            if longer is not None and len(longer.ids) <= self._T:
                run, made = [*run, *exchange], longer
                continue
            yield from self._finished([*system, *run], made)
            run, made = exchange, self._encoded([*system, *exchange])
            if made is None or len(made.ids) > self._T:
                yield Left(f"an exchange longer than a row of {self._T} tokens")
                run, made = [], None
        yield from self._finished([*system, *run], made)

    def _finished(
        self, messages: Sequence[Message], made: Rendered | None
    ) -> Iterator[tuple[Sequence[Message], Rendered] | Left]:
        if made is not None:
            yield (messages, made) if any(made.learned) else Left("nothing left to learn after cutting")

    def _encoded(self, messages: Sequence[Message]) -> Rendered | None:
        """None where the template changes what it wrote before."""
        given = [{"role": message.role, "content": message.content} for message in messages]
        try:
            return self._encoder.encode(given, [message.learn for message in messages])
        except ValueError:
            return None


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
