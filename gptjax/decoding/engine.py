"""The one decoding engine: many texts written at once, each in a row of its own, as if it were alone.

A request waits for a row, its prompt is read in pieces, and then every turn draws a token for every row. A row is free
again as soon as its text ends. Rows keep the prompts that they have read, and a prompt that begins alike is not read
again that far.
"""

import contextlib
import dataclasses
import math
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, runtime_checkable

import jax
import numpy as np

from gptjax.decoding import decode
from gptjax.decoding.drawing import LIKELIEST, Choice, Drawn
from gptjax.decoding.padding import padded_length
from gptjax.decoding.sampling import Sampling
from gptjax.decoding.text_stream import TextStream
from gptjax.mesh_axes import row_axes

if TYPE_CHECKING:
    from gptjax.inference.language_model import LanguageModel

PIECE = 64  # tokens of prompts that are read between two steps; whole pieces of a prompt are kept for others
SHORT_PIECE = 16  # a prompt's last tokens are padded to so many, if they fit


@runtime_checkable
class Grammar(Protocol):
    """What a text may be."""

    ended: bool  # nothing may follow

    def allowed(self) -> np.ndarray:
        """i32 [W]: bit v % 32 of word v // 32 says whether token v may come next."""
        ...

    def take(self, id: int) -> None:
        """This token was drawn."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request:
    """A text to be written."""

    prompt: tuple[int, ...]
    sampling: Sampling
    sample: int = 0  # its number among the samples of one prompt: another number draws other tokens
    likeliest: int = 0  # so many of the likeliest tokens are told with each token, at most LIKELIEST
    echo: bool = False  # the prompt's own tokens are scored too
    prefix: int = 0  # so many of the prompt's first tokens see each other, as a prefix-LM was trained
    grammar: Grammar | None = None


class Token(NamedTuple):
    """A token of a text; log-probabilities in nats, as the model believes, before any setting."""

    id: int
    log_prob: float
    likeliest: tuple[tuple[int, float], ...] = ()


class Read(NamedTuple):
    """The prompt was read."""

    cached: int  # tokens of it that were there already
    scores: tuple[Token | None, ...] = ()  # with echo: its tokens; the first has no probability


class Said(NamedTuple):
    """A token was drawn. The text may lag behind: part of a character, or of a stop string, is held back."""

    text: str
    tokens: tuple[Token, ...]


class Ended(NamedTuple):
    """The text is over. The last event."""

    reason: Literal["stop", "eos", "length", "context full", "cancelled"]


class Failed(NamedTuple):
    """The request was given up. The last event."""

    error: Exception


Event = Read | Said | Ended | Failed
Listener = Callable[[Event], None]


class Ticket:
    """A request on its way through the engine."""

    def __init__(self, request: Request, listener: Listener, stream: TextStream, limit: int, bias_V: np.ndarray | None):
        self.request, self.tell, self.stream, self.limit = request, listener, stream, limit
        self.bias_V = bias_V  # None = nobody asked for one
        self.cancelled = False
        self.read = self.cached = 0  # tokens of the prompt in the row's slots; those of them that were there before
        self.scores: list[Token | None] = [None]
        self.drawn: list[int] = []


class Engine:
    """Rows of one model, owned by one thread.

    >>> engine = Engine(model, rows=8)
    >>> ticket = engine.submit(Request(prompt=(1, 5), sampling=Sampling(tokens=20)), print)
    >>> while engine.turn():
    ...     pass

    `rows`: texts that are written at once. `context`: tokens that a row has room for; None = the model's.
    A text depends on its request alone, to the last bit: not on the others, their number, or what a row holds already.
    Other `rows`, another `context` or mesh, move float32 scores by about 1e-5.
    """

    def __init__(self, model: "LanguageModel", *, rows: int, context: int | None = None):
        self.model, self.context = model, model.config.T if context is None else context
        if not 1 <= self.context <= model.config.T:
            raise ValueError(f"context={self.context}: this model can read from 1 to {model.config.T} tokens")
        self._network, self._params = model.decoding()
        ways = math.prod(model.mesh.shape[axis] for axis in row_axes()) if model.mesh is not None else 1
        self.rows = -(-rows // ways) * ways
        with model.on_mesh():  # room for whole pieces, for a piece is padded
            state = decode.empty(self._network, self.rows, -(-self.context // PIECE) * PIECE)
        # bound to its devices from the start, as what comes of loaded parameters is: else the first program is for once
        self._state = jax.tree.map(lambda leaf: jax.device_put(leaf, leaf.sharding), state)
        self._seated: list[Ticket | None] = [None] * self.rows
        self._held: list[tuple[int, ...]] = [()] * self.rows  # tokens whose keys and values a row has, in whole pieces
        self._used = [0] * self.rows  # when a row was last seated, or a piece read into it
        self._clock = 0
        self._waiting: deque[Ticket] = deque()
        self._any = decode.all_allowed(model.config.V)
        self._token_B, self._slot_B = np.zeros(self.rows, np.int32), np.zeros(self.rows, np.int32)
        self._allowed_BW = np.stack([self._any] * self.rows)

    @property
    def waiting(self) -> int:
        """Requests that have no row yet."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """Rows with a text."""
        return sum(ticket is not None for ticket in self._seated)

    def submit(self, request: Request, listener: Listener) -> Ticket:
        """Events come from `turn`. Raises ValueError, at once, where a prompt or a setting does not fit the model."""
        prompt, sampling = self.model.encode_prompt(request.prompt), request.sampling
        if len(prompt) > self.context:
            raise ValueError(f"a prompt has {len(prompt)} tokens; this engine has room for {self.context}")
        if not 0 <= request.likeliest <= LIKELIEST:
            raise ValueError(f"likeliest={request.likeliest}: must be from 0 to {LIKELIEST}")
        if not 0 <= request.prefix <= len(prompt):
            raise ValueError(f"prefix={request.prefix}: must be from 0 to the prompt's {len(prompt)} tokens")
        if request.prefix and request.echo:
            raise ValueError("echo: the tokens of a prefix see each other, and have no probability one after another")
        bias_V = self.model.bias(sampling.logit_bias) if sampling.logit_bias else None  # refuses what is no token
        limit = min(sampling.tokens, self.context - len(prompt) + 1)  # the last token is drawn, but needs no slot
        stream = TextStream(self.model.tokenizer, self.model.generation_config.ends, sampling.stop)
        ticket = Ticket(dataclasses.replace(request, prompt=tuple(prompt)), listener, stream, limit, bias_V)
        self._waiting.append(ticket)
        return ticket

    def cancel(self, ticket: Ticket) -> None:
        """Its row is free from the next turn on."""
        ticket.cancelled = True

    def turn(self) -> bool:
        """Seats who waits, reads a piece of a prompt, and draws a token for every text. False = nothing was to do."""
        self._drop_cancelled()
        self._seat_waiting()
        if not self.running:
            return False
        with self.model.on_mesh():
            self._read_pieces()
            self._step()
        return True

    def run(self, requests: Sequence[Request], listeners: Sequence[Listener]) -> None:
        """All of them, to their ends."""
        for request, listener in zip(requests, listeners, strict=True):
            self.submit(request, listener)
        while self.turn():
            pass

    def warm_up(self) -> None:
        """Compiles all programs, by using them."""
        told: list[Event] = []
        V = self.model.config.vocabulary
        # or there might be no step
        never: dict[int | str, float] = {id: float("-inf") for id in self.model.generation_config.ends}
        settings = Sampling(tokens=2, temperature=0, logit_bias=never)
        for length in (SHORT_PIECE, PIECE):
            for echo in (False, True):
                prompt = tuple((place * 7 + length + echo) % V for place in range(min(length, self.context - 1) or 1))
                self.run([Request(prompt=prompt, sampling=settings, echo=echo)], [told.append])
        for event in told:
            if isinstance(event, Failed):
                raise event.error
        with self.model.on_mesh():
            self._state = decode.copy(self._state, *jax.device_put((np.int32(0), np.int32(self.rows - 1))))
        self._held = [()] * self.rows

    def _drop_cancelled(self) -> None:
        for ticket in [ticket for ticket in self._waiting if ticket.cancelled]:
            self._waiting.remove(ticket)
            ticket.tell(Ended("cancelled"))
        for row, ticket in enumerate(self._seated):
            if ticket is not None and ticket.cancelled:
                self._end(row, ticket, Ended("cancelled"))

    def _seat_waiting(self) -> None:
        while self._waiting and None in self._seated:
            ticket = self._waiting.popleft()
            with self._giving_up(ticket):
                self._seat(ticket)

    def _seat(self, ticket: Ticket) -> None:
        """Into the free row that holds most of the prompt, or else was used longest ago; what another row holds of it
        is copied."""
        request = ticket.request
        allowed_W = self._allowed(request.grammar)  # may refuse, before there is anything to undo
        shared = [self._shared(request, held) for held in self._held]
        free = [row for row, seated in enumerate(self._seated) if seated is None]
        row = max(free, key=lambda row: (shared[row], -self._used[row]))
        source = max(range(self.rows), key=lambda row: shared[row])
        seen_V = np.zeros(self.model.config.V, bool)
        seen_V[list(request.prompt)] = True
        with self.model.on_mesh():
            if shared[source] > shared[row]:
                self._state = decode.copy(self._state, *jax.device_put((np.int32(source), np.int32(row))))
            self._state = decode.seat(self._state, *jax.device_put((np.int32(row), self._choice(ticket), seen_V)))
        ticket.read = ticket.cached = shared[source]
        self._held[row] = request.prompt[: ticket.read]
        self._clock += 1
        self._used[row], self._seated[row], self._slot_B[row] = self._clock, ticket, ticket.read
        self._allowed_BW[row] = allowed_W

    def _shared(self, request: Request, held: tuple[int, ...]) -> int:
        """Tokens at a prompt's beginning that need not be read again, in whole pieces; the last one must be."""
        if request.echo or request.prefix:
            return 0
        most = min(len(held), len(request.prompt) - 1) // PIECE * PIECE
        pieces = range(PIECE, most + 1, PIECE)
        return max((end for end in pieces if request.prompt[:end] == held[:end]), default=0)

    def _read_pieces(self) -> None:
        """Of the prompts, as many tokens as one piece has; they take turns, so that a long one keeps nobody waiting."""
        room = PIECE
        unread = [row for row, ticket in enumerate(self._seated) if ticket and ticket.read < len(ticket.request.prompt)]
        for row in sorted(unread, key=self._used.__getitem__):
            ticket = self._seated[row]
            assert ticket is not None
            left = len(ticket.request.prompt) - ticket.read
            length = left if ticket.request.prefix else min(PIECE, left)
            width = self._width(ticket.request, length)
            if room < min(width, PIECE):
                return
            room -= width
            self._clock += 1
            self._used[row] = self._clock  # the others come first next time
            with self._giving_up(ticket, row):
                self._read(row, ticket, length, width)

    def _width(self, request: Request, length: int) -> int:
        """Tokens that a piece is padded to."""
        if request.prefix:
            return padded_length(length, self.context)
        return PIECE if length > SHORT_PIECE or request.echo else SHORT_PIECE

    def _read(self, row: int, ticket: Ticket, length: int, width: int) -> None:
        """The next piece of a row's prompt, and after the last one the first token of its text."""
        request, start = ticket.request, ticket.read
        ids = request.prompt[start : start + length]
        tokens_T, target_T = np.full(width, self.model.tokenizer.pad, np.int32), np.zeros(width, np.int32)
        tokens_T[:length] = ids
        after = request.prompt[start + 1 : start + length + 1]
        target_T[: len(after)] = after
        scalars = (np.int32(start), np.int32(length), np.int32(request.prefix), self._allowed_BW[row])
        given = jax.device_put((np.int32(row), tokens_T, target_T, *scalars))
        self._state, drawn, scored = decode.read(self._network, self._params, self._state, *given, scored=request.echo)
        ticket.read += length
        self._slot_B[row] = ticket.read
        if length == PIECE and not request.prefix and not request.echo:
            self._held[row] = request.prompt[: ticket.read]
        if scored is not None:
            log_prob_T, likeliest_TJ, their_TJ = jax.device_get(scored)
            for place, id in enumerate(after):
                told = _told(likeliest_TJ[place], their_TJ[place], request.likeliest)
                ticket.scores.append(Token(id, float(log_prob_T[place]), told))
        if ticket.read == len(request.prompt):
            ticket.tell(Read(ticket.cached, tuple(ticket.scores) if request.echo else ()))
            self._take(row, ticket, jax.device_get(drawn), 0)

    def _step(self) -> None:
        writing = [row for row, ticket in enumerate(self._seated) if ticket and ticket.drawn]
        if not writing:
            return
        writing_B = np.zeros(self.rows, bool)
        writing_B[writing] = True
        given = jax.device_put((self._token_B, self._slot_B, writing_B, self._allowed_BW))
        self._state, drawn = decode.step(self._network, self._params, self._state, *given)
        drawn = jax.device_get(drawn)
        self._slot_B[writing] += 1
        for row in writing:
            ticket = self._seated[row]
            assert ticket is not None
            with self._giving_up(ticket, row):
                self._take(row, ticket, drawn, row)

    def _take(self, row: int, ticket: Ticket, drawn: Drawn, place: int) -> None:
        """A token was drawn for a row: it is told, and the row is free if the text is over."""
        id, log_prob = int(drawn.id_B[place]), float(drawn.log_prob_B[place])
        if not math.isfinite(log_prob):
            raise ValueError(
                "the model's scores are not numbers, or all tokens are forbidden; its weights may be damaged, or too "
                "large for its dtype: try float32"
            )
        told = _told(drawn.likeliest_BJ[place], drawn.their_log_prob_BJ[place], ticket.request.likeliest)
        ticket.drawn.append(id)
        stream, grammar = ticket.stream, ticket.request.grammar
        piece = stream.push(id)
        if grammar is not None and stream.ended is None:
            grammar.take(id)
            if grammar.ended:
                piece += stream.rest()
                stream.ended = stream.ended or "stop"
        full = len(ticket.drawn) == ticket.limit
        if full and stream.ended is None:
            piece += stream.rest()
        ticket.tell(Said(piece, (Token(id, log_prob, told),)))
        if stream.ended is not None:
            self._end(row, ticket, Ended(stream.ended))
        elif full:
            whole = ticket.limit == ticket.request.sampling.tokens
            self._end(row, ticket, Ended("length" if whole else "context full"))
        else:
            self._token_B[row] = id
            self._allowed_BW[row] = self._allowed(grammar)

    def _end(self, row: int, ticket: Ticket, event: Ended | Failed) -> None:
        self._seated[row] = None
        self._allowed_BW[row] = self._any
        ticket.tell(event)

    def _allowed(self, grammar: Grammar | None) -> np.ndarray:
        return self._any if grammar is None else grammar.allowed()

    @contextlib.contextmanager
    def _giving_up(self, ticket: Ticket, row: int | None = None) -> Iterator[None]:
        """What goes wrong ends this request, and no other."""
        try:
            yield
        except Exception as error:
            if row is None or self._seated[row] is not ticket:
                ticket.tell(Failed(error))
            else:
                self._end(row, ticket, Failed(error))

    def _choice(self, ticket: Ticket) -> Choice:
        """A row's key comes of the seed, its prompt's tokens and its number among the samples, not of other rows."""
        request, V = ticket.request, self.model.config.V
        sampling = request.sampling
        checksum = zlib.crc32(np.array(request.prompt, np.int32).tobytes())
        key = _row_key(*jax.device_put((np.uint32(sampling.seed), np.uint32(checksum), np.uint32(request.sample))))
        return Choice(
            key_B=key,
            temperature_B=np.float32(sampling.temperature),
            top_k_B=np.int32(min(sampling.top_k or V, V)),
            top_p_B=np.float32(sampling.top_p or 1.0),
            min_p_B=np.float32(sampling.min_p or 0.0),
            penalty_B=np.float32(sampling.repetition_penalty or 1.0),
            presence_B=np.float32(sampling.presence_penalty),
            frequency_B=np.float32(sampling.frequency_penalty),
            bias_BV=np.zeros(V, np.float32) if ticket.bias_V is None else ticket.bias_V,
            told_B=np.bool_(request.likeliest > 0),
        )


@jax.jit
def _row_key(seed: Any, checksum: Any, sample: Any) -> jax.Array:
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), checksum), sample)


def _told(ids: Any, log_probs: Any, count: int) -> tuple[tuple[int, float], ...]:
    return tuple((int(id), float(nats)) for id, nats in zip(ids[:count], log_probs[:count], strict=True))
