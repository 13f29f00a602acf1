"""A text that grows by token, handed out as far as it is sure: in whole characters, and nothing of a stop string."""

from collections.abc import Iterable, Sequence
from typing import Literal

from gptjax.text.tokenizer import StreamDecoder, Tokenizer


class TextStream:
    """One text. `ends`: ids that end it; `stop`: strings that do, and names of special tokens that do."""

    def __init__(self, tokenizer: Tokenizer, ends: Iterable[int], stop: Sequence[str] = ()):
        self.text = ""  # what is sure
        self.ended: Literal["eos", "stop"] | None = None
        self._decoder, self._ends, self._stop = StreamDecoder(tokenizer), frozenset(ends), stop
        # special tokens are no text, so a stop string that names one is looked for among the ids
        self._stops = {id for id in tokenizer.special_ids if tokenizer.token(id) in stop} if stop else set()
        self._seen = ""  # what is sure, and what may be the start of a stop string

    def push(self, id: int) -> str:
        """The text that is sure with one more token, and was not before."""
        if id in self._ends or id in self._stops:
            piece = self.rest()
            self.ended = self.ended or ("eos" if id in self._ends else "stop")
            return piece
        return self._more(self._decoder.push(id))

    def rest(self) -> str:
        """What was held back; to be asked for where no further token comes."""
        piece = self._more(self._decoder.rest())
        if self.ended is not None:
            return piece
        held = self._seen[len(self.text) :]
        self.text = self._seen
        return piece + held

    def _more(self, piece: str) -> str:
        self._seen += piece
        said = len(self.text)
        sure, stopped = certain(self._seen, said, self._stop)
        self.text = self._seen[:sure]
        if stopped:
            self.ended = "stop"
        return self._seen[said:sure]


def certain(text: str, said: int, stop: Sequence[str]) -> tuple[int, bool]:
    """How many characters of a text are sure to be before any stop string, and whether one was found behind them.

    The first `said` are known to be. An end of the text that may be the start of a stop string is not sure.
    """
    found = [place for ending in stop if (place := text.find(ending, said)) >= 0]
    if found:
        return min(found), True
    begun = [size for ending in stop for size in range(1, len(ending)) if text.endswith(ending[:size], said)]
    return len(text) - max(begun, default=0), False
