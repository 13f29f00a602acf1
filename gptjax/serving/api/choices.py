"""From what the engine says of each text to the pieces of a reply, in the order in which they come."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Sequence
from typing import NamedTuple

from gptjax.decoding.engine import Ended, Event, Failed, Read, Request, Said, Token
from gptjax.serving.errors import ApiError
from gptjax.serving.fair_queue import QueueFull
from gptjax.serving.worker import Answer, Unavailable, Worker

AT_ONCE = 16  # texts of one request that wait or are decoded; the others begin when these end
QUIET_SECONDS = 10.0  # without a piece, until a sign of life is due
AGAIN = 0.05  # seconds until a text whose request has begun is offered to a full queue again

REASONS = {"stop": "stop", "eos": "stop", "length": "length", "context full": "length"}


class Piece(NamedTuple):
    """What a choice, by its number, has more than before; tokens without text come too. None = a prompt's first one."""

    choice: int
    text: str = ""
    tokens: tuple[Token | None, ...] = ()
    reason: str | None = None  # why the text ended; then nothing follows
    drawn: int = 0  # tokens that the model drew
    cached: int = 0  # tokens of its prompt that had been read for an earlier one


class Choice(NamedTuple):
    """One text that is wanted."""

    request: Request
    echo: str = ""  # comes before what the model says
    stripped: bool = False  # white space in front of what the model says is left out


async def pieces(worker: Worker, choices: Sequence[Choice], client: str) -> AsyncGenerator[list[Piece]]:
    """Of all choices, as they come; first an empty list, once the first of them was taken, and one whenever nothing
    came for QUIET_SECONDS.

    To close it cancels what is under way. Raises ApiError, at once where nothing was taken.
    """
    first = _first(worker, choices[0].request, client)
    ready: asyncio.Queue[Piece | BaseException] = asyncio.Queue()
    places = asyncio.Semaphore(AT_ONCE)

    async def follow(index: int) -> None:
        with worker.begun():
            async with places:
                try:
                    answer = first if index == 0 else await _taken(worker, choices[index].request, client)
                    async for piece in _of_choice(answer, index, choices[index]):
                        ready.put_nowait(piece)
                except Exception as error:
                    ready.put_nowait(error)

    tasks = [asyncio.create_task(follow(index)) for index in range(len(choices))]
    try:
        yield []
        left = len(choices)
        while left:
            try:
                found = [await asyncio.wait_for(ready.get(), QUIET_SECONDS)]
            except TimeoutError:
                yield []
                continue
            while not ready.empty():
                found.append(ready.get_nowait())
            if errors := [one for one in found if isinstance(one, BaseException)]:
                raise errors[0]
            together = [one for one in found if isinstance(one, Piece)]
            left -= sum(piece.reason is not None for piece in together)
            yield together
    finally:
        for task in tasks:
            task.cancel()
        await first.aclose()  # its task may not have begun
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*tasks, return_exceptions=True)


def _first(worker: Worker, request: Request, client: str) -> Answer:
    """Raises ApiError where nothing is taken now."""
    try:
        return worker.events(request, client)
    except QueueFull as error:
        raise ApiError(str(error), status=429) from None
    except Unavailable as error:
        raise _unavailable(error) from None


async def _taken(worker: Worker, request: Request, client: str) -> Answer:
    """A further text of a request that has begun waits as long as it takes."""
    while True:
        try:
            return worker.events(request, client, begun=True)
        except QueueFull:
            await asyncio.sleep(AGAIN)
        except Unavailable as error:
            raise _unavailable(error) from None


async def _of_choice(answer: Answer, index: int, choice: Choice) -> AsyncGenerator[Piece]:
    begun = not choice.stripped
    async with contextlib.aclosing(answer):
        async for event in answer:
            match event:
                case Read():
                    yield Piece(index, choice.echo, event.scores, cached=event.cached)
                case Said():
                    text = event.text if begun else event.text.lstrip()
                    begun = begun or bool(text)
                    yield Piece(index, text, event.tokens, drawn=len(event.tokens))
                case _:
                    yield Piece(index, reason=_reason(event, choice.request))


def _reason(event: Event, request: Request) -> str:
    if isinstance(event, Failed):
        raise _as_api_error(event.error, request)
    assert isinstance(event, Ended)
    if event.reason == "cancelled":
        raise ApiError("the text was cut off: the server took its place away", status=503, code="unavailable")
    return REASONS[event.reason]


def _as_api_error(error: Exception, request: Request) -> Exception:
    match error:
        case ValueError():
            # all else that a request can ask was checked: what the engine refuses then is a fault of the model's
            return ApiError(str(error)[:500], status=500 if request.grammar is None else 400)
        case Unavailable():
            return _unavailable(error)
        case _:
            return error


def _unavailable(error: Unavailable) -> ApiError:
    return ApiError(str(error), status=503, code="unavailable")
