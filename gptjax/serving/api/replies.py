"""The replies of completions and chats, whole and in streams, exactly in OpenAI's form."""

import calendar
import codecs
import json
import time
import uuid
from collections.abc import Iterable, Sequence
from typing import Any

from gptjax.decoding.engine import Token
from gptjax.serving.api.choices import Piece
from gptjax.serving.api.token_texts import TokenTexts, finite

DONE = b"data: [DONE]\n\n"
PING = b": ping\n\n"  # a comment of server-sent events: it keeps a connection, and every client skips it


def event(content: Any) -> bytes:
    """A server-sent event: one line of JSON."""
    return b"data: " + as_json(content) + b"\n\n"


def created() -> int:
    """The date of now, as OpenAI tells it: seconds since 1970. Durations are measured by other clocks."""
    return calendar.timegm(time.gmtime())


def as_json(content: Any) -> bytes:
    return json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


class ChatStyle:
    """How chats write a choice."""

    prefix, whole, part = "chatcmpl-", "chat.completion", "chat.completion.chunk"

    def __init__(self, texts: TokenTexts, likeliest: int | None):
        self._texts, self._likeliest, self.scored = texts, likeliest, likeliest is not None

    def begun(self, index: int) -> dict[str, Any]:
        return self._delta(index, {"role": "assistant", "content": ""}, None, None)

    def streamed(self, piece: Piece) -> dict[str, Any]:
        said = {} if piece.reason else {"content": piece.text}
        return self._delta(piece.choice, said, self._log_probs(piece) if piece.tokens else None, piece.reason)

    def complete(self, piece: Piece) -> dict[str, Any]:
        return {
            "index": piece.choice,
            "message": {"role": "assistant", "content": piece.text, "refusal": None},
            "logprobs": self._log_probs(piece),
            "finish_reason": piece.reason,
        }

    def _delta(self, index: int, said: dict[str, Any], log_probs: Any, reason: str | None) -> dict[str, Any]:
        return {"index": index, "delta": said, "logprobs": log_probs, "finish_reason": reason}

    def _log_probs(self, piece: Piece) -> dict[str, Any] | None:
        if self._likeliest is None:
            return None
        return {"content": [self._token(token) for token in piece.tokens if token is not None], "refusal": None}

    def _token(self, token: Token) -> dict[str, Any]:
        top = [self._scored(*one) for one in token.likeliest[: self._likeliest]]
        return {**self._scored(token.id, token.log_prob), "top_logprobs": top}

    def _scored(self, id: int, nats: float) -> dict[str, Any]:
        text = self._texts.of(id)
        spelt = None if text.special else [*text.spelling]
        return {"token": text.name, "logprob": finite(nats), "bytes": spelt}


class CompletionStyle:
    """How completions write a choice."""

    prefix, whole, part = "cmpl-", "text_completion", "text_completion"

    def __init__(self, texts: TokenTexts, likeliest: int | None, prompts: Sequence[Sequence[int]]):
        """`prompts`: the ids of every choice's prompt."""
        self._texts, self._likeliest, self.scored = texts, likeliest, likeliest is not None
        self._prompts = prompts
        self._written = [Written() for _ in prompts]

    def begun(self, index: int) -> None:
        return None

    def streamed(self, piece: Piece) -> dict[str, Any]:
        return {
            "index": piece.choice,
            "text": piece.text,
            "logprobs": self._log_probs(piece) if piece.tokens else None,
            "finish_reason": piece.reason,
        }

    def complete(self, piece: Piece) -> dict[str, Any]:
        return self.streamed(piece)

    def _log_probs(self, piece: Piece) -> dict[str, Any] | None:
        if self._likeliest is None:
            return None
        names, nats, tops, offsets = [], [], [], []
        for place, token in enumerate(piece.tokens):
            # a prompt's first token, which nothing predicts
            text = self._texts.of(self._prompts[piece.choice][place] if token is None else token.id)
            offsets.append(self._written[piece.choice].characters)
            self._written[piece.choice].add(text.spelling)
            names.append(text.name)
            nats.append(None if token is None else finite(token.log_prob))
            tops.append(None if token is None else self._top(token))
        return {"tokens": names, "token_logprobs": nats, "top_logprobs": tops, "text_offset": offsets}

    def _top(self, token: Token) -> dict[str, float]:
        """The likeliest, and the token itself, whose number is then one more, as with OpenAI."""
        return self._texts.named({**dict(token.likeliest[: self._likeliest]), token.id: token.log_prob}.items())


Style = ChatStyle | CompletionStyle


class Written:
    """How many whole characters a text has, token by token."""

    def __init__(self):
        self.characters = 0
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def add(self, spelling: bytes) -> None:
        self.characters += len(self._decoder.decode(spelling))


class Reply:
    """One reply: what all its parts have in common, and what it has used."""

    def __init__(self, style: Style, model: str, fingerprint: str, prompt_tokens: int, samples: int):
        """`prompt_tokens`: of all prompts, each of which has so many `samples`, one behind another."""
        self.id = f"{style.prefix}{uuid.uuid4().hex}"
        self._style, self._samples, self._prompt_tokens = style, samples, prompt_tokens
        self._common = {"created": created(), "model": model, "system_fingerprint": fingerprint}
        self._drawn = self._cached = 0

    def count(self, pieces: Iterable[Piece]) -> None:
        """Takes down what the pieces cost. A prompt counts once, with what its first sample reused."""
        for piece in pieces:
            self._cached += piece.cached if piece.choice % self._samples == 0 else 0
            self._drawn += piece.drawn

    def usage(self) -> dict[str, Any]:
        return {
            "prompt_tokens": self._prompt_tokens,
            "completion_tokens": self._drawn,
            "total_tokens": self._prompt_tokens + self._drawn,
            "prompt_tokens_details": {"cached_tokens": self._cached},
        }

    def complete(self, pieces: Iterable[Piece]) -> bytes:
        """The whole reply, of all pieces of all its choices."""
        of_choice: dict[int, list[Piece]] = {}
        for piece in pieces:
            of_choice.setdefault(piece.choice, []).append(piece)
        choices = [
            self._style.complete(
                Piece(
                    index,
                    "".join(piece.text for piece in own),
                    tuple(token for piece in own for token in piece.tokens),
                    own[-1].reason,
                )
            )
            for index, own in sorted(of_choice.items())
        ]
        return as_json(self._object(self._style.whole, choices) | {"usage": self.usage()})

    def opening(self, count: int, usage: bool) -> bytes:
        """The first events of a stream of so many choices."""
        begun = [self._style.begun(index) for index in range(count)]
        return b"".join(self._part(choice, usage) for choice in begun if choice is not None)

    def parts(self, pieces: Iterable[Piece], usage: bool) -> bytes:
        """An event for each piece that has something to say. `usage`: the stream will end with it."""
        told = (piece for piece in pieces if piece.text or piece.reason or (self._style.scored and piece.tokens))
        return b"".join(self._part(self._style.streamed(piece), usage) for piece in told)

    def last(self, usage: bool) -> bytes:
        """The events behind the last piece of a stream."""
        counted = event(self._object(self._style.part, []) | {"usage": self.usage()}) if usage else b""
        return counted + DONE

    def _part(self, choice: dict[str, Any], usage: bool) -> bytes:
        return event(self._object(self._style.part, [choice]) | ({"usage": None} if usage else {}))

    def _object(self, what: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {"id": self.id, "object": what, **self._common, "choices": choices}
