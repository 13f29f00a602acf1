"""The API of OpenAI's form, and the chat page, as a Starlette application."""

import asyncio
import base64
import contextlib
import functools
import hashlib
import re
import uuid
from collections.abc import AsyncGenerator, Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import numpy as np
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gptjax.inference.language_model import LanguageModel
from gptjax.inference.prompt import encode_prompts, encode_rendered
from gptjax.look.look_page import TEMPLATE
from gptjax.serving.api import classifying, looking, prepared, requests
from gptjax.serving.api.bodies import EventStream, json_of, while_connected
from gptjax.serving.api.choices import Piece, pieces
from gptjax.serving.api.computing import Computing
from gptjax.serving.api.replies import (
    PING,
    ChatStyle,
    CompletionStyle,
    Reply,
    Style,
    as_json,
    created,
    event,
)
from gptjax.serving.api.token_texts import TokenTexts
from gptjax.serving.errors import ApiError, our_fault
from gptjax.serving.guard import Guard, log_mistake
from gptjax.serving.metrics import CONTENT_TYPE
from gptjax.serving.settings import Settings
from gptjax.serving.worker import Worker
from gptjax.text.tokenizer import SHIELD

MANY_TOKENS = 128  # of a part of a stream, from which on it is written beside the event loop
PAGE = Path(__file__).parent / "page" / "index.html"


def application(worker: Worker, settings: Settings) -> Starlette:
    """For uvicorn, or any ASGI server that bounds the heads of requests and ends clients that do not read."""
    api = Api(worker, settings)
    get: dict[str, Callable[..., Any]] = {
        "/": chat_page(),
        "/v1/models": api.models,
        "/v1/models/{name:path}": api.one_model,
        "/healthz": api.alive,
        "/readyz": api.ready,
        "/health": api.ready,
        "/metrics": api.metrics,
    }
    post: dict[str, Callable[..., Any]] = {
        "/v1/completions": api.completions,
        "/v1/chat/completions": api.chat,
        "/v1/embeddings": api.embeddings,
        "/v1/classify": api.classify,
        "/look": api.look,
        "/tokenize": api.tokenize,
        "/detokenize": api.detokenize,
    }
    routes = [Route(path, endpoint, methods=["GET"]) for path, endpoint in get.items()]
    routes += [Route(path, endpoint, methods=["POST"]) for path, endpoint in post.items()]
    app = Starlette(
        routes=routes,
        middleware=[Middleware(Guard, settings=settings, rejected=worker.metrics.rejected)],
        exception_handlers={HTTPException: no_such_route},
    )
    app.router.redirect_slashes = False  # a redirected POST loses its body
    return app


class Api:
    """What the routes do."""

    def __init__(self, worker: Worker, settings: Settings):
        self._worker, self._settings = worker, settings
        self._created = created()
        self._texts = TokenTexts(worker.model.tokenizer)  # the same of every model that it is swapped for
        self._computing = Computing()

    async def models(self, request: Request) -> Response:
        return answer({"object": "list", "data": [self._card()]})

    async def one_model(self, request: Request) -> Response:
        self._check_model(request.path_params["name"])
        return answer(self._card())

    async def completions(self, request: Request) -> Response:
        asked = requests.completion(await json_of(request, self._settings))
        self._check_model(asked.model)
        model = self._worker.model
        made = await asyncio.to_thread(prepared.completion, asked, model, self._context)
        prompts = [choice.request.prompt for choice in made.choices]
        return await self._replied(request, asked, made, CompletionStyle(self._texts, asked.likeliest, prompts))

    async def chat(self, request: Request) -> Response:
        asked = requests.conversation(await json_of(request, self._settings))
        self._check_model(asked.model)
        made = await asyncio.to_thread(prepared.conversation, asked, self._worker.model, self._context)
        return await self._replied(request, asked, made, ChatStyle(self._texts, asked.likeliest))

    async def _replied(
        self, request: Request, asked: requests.Drawing, made: prepared.Prepared, style: Style
    ) -> Response:
        known_by = await asyncio.to_thread(fingerprint, self._worker.model, self._worker.rows)
        reply = Reply(style, self._settings.name, known_by, sum(map(len, made.prompts)), asked.n)
        coming = pieces(self._worker, made.choices, request.state.client)
        await anext(coming)  # from here on it is under way
        if asked.stream:
            number = request.state.number
            return EventStream(streamed(coming, reply, len(made.choices), asked.usage_in_stream, number))

        async def gathered() -> list[Piece]:
            async with contextlib.aclosing(coming):
                return [piece async for some in coming for piece in some]

        found = await while_connected(request.receive, gathered())
        reply.count(found)
        return Response(await asyncio.to_thread(reply.complete, found), media_type="application/json")

    async def embeddings(self, request: Request) -> Response:
        asked = requests.embedding(await json_of(request, self._settings))
        self._check_model(asked.model)
        width = self._worker.model.config.D
        if asked.dimensions not in (None, width):
            raise ApiError(f"dimensions is {asked.dimensions}; this model's embeddings have {width}", "dimensions")
        prompts = await self._inputs(asked.inputs)
        found_ID = await self._computed(request, prompts, LanguageModel.mean_states)
        spelt = packed if asked.base64 else np.ndarray.tolist

        def written() -> Response:
            data = [
                {"object": "embedding", "index": index, "embedding": spelt(row_D)}
                for index, row_D in enumerate(found_ID)
            ]
            return answer({"object": "list", "data": data, "model": self._settings.name, "usage": used(prompts)})

        return await asyncio.to_thread(written)

    async def classify(self, request: Request) -> Response:
        asked = requests.classification(await json_of(request, self._settings))
        self._check_model(asked.model)
        model = self._worker.model
        number, read = await asyncio.to_thread(classifying.reading, asked, model)
        head, texts = model.config.class_heads[number], [tuple(one.ids) for one in read]
        found_IC = await self._computed(
            request, texts, lambda model, texts, **options: model.class_log_probs(texts, number, **options)
        )
        return answer(
            {
                "id": f"classify-{uuid.uuid4().hex}",
                "object": "list",
                "created": created(),
                "model": self._settings.name,
                "labels": list(head.classes),
                "data": classifying.told(head, found_IC, read),
                "usage": used(texts),
            }
        )

    async def look(self, request: Request) -> Response:
        asked = requests.looking(await json_of(request, self._settings))
        self._check_model(asked.model)
        model, name = self._worker.model, self._settings.name
        ids = await asyncio.to_thread(prepared.prompt_ids, [asked.prompt], model, "prompt")
        looking.check_length(len(ids[0]), model.config)
        content = await self._computed(
            request, ids, lambda model, ids, progress: looking.page(model, ids[0], asked.token, name)
        )
        return Response(content, headers=page_headers(TEMPLATE), media_type="text/html")

    async def tokenize(self, request: Request) -> Response:
        asked = requests.tokenizing(await json_of(request, self._settings))
        if asked.model is not None:
            self._check_model(asked.model)
        model = self._worker.model

        def read() -> tuple[str, list[int]]:
            if asked.messages is None:
                text = asked.prompt or ""
                if not asked.special:
                    return text, model.tokenizer.encode(text)
                return text, encode_prompts(model.tokenizer, model.generation_config, [text])[0]
            text = prepared.conversation_text(asked.messages, model, tools=asked.tools, continues=asked.continues)
            return text.replace(SHIELD, ""), encode_rendered(model.tokenizer, text)

        def written() -> Response:
            text, ids = read()
            names = [self._texts.of(id).name for id in ids] if asked.names else None
            return answer(
                {"count": len(ids), "max_model_len": self._context, "tokens": ids, "token_strs": names, "text": text}
            )

        return await asyncio.to_thread(written)

    async def detokenize(self, request: Request) -> Response:
        asked = requests.detokenizing(await json_of(request, self._settings))
        if asked.model is not None:
            self._check_model(asked.model)
        tokenizer = self._worker.model.tokenizer
        if (top := max(asked.ids)) >= tokenizer.size:
            raise ApiError(f"tokens has token id {top}; the model has {tokenizer.size} tokens, from 0 on", "tokens")
        return answer({"prompt": await asyncio.to_thread(tokenizer.decode, asked.ids)})

    async def alive(self, request: Request) -> Response:
        self._check_alive()
        return answer({"status": "ok"})

    async def ready(self, request: Request) -> Response:
        self._check_ready()
        return answer({"status": "ok"})

    async def metrics(self, request: Request) -> Response:
        return Response(self._worker.metrics.page(), headers={"content-type": CONTENT_TYPE})

    @property
    def _context(self) -> int:
        return self._worker.context or self._worker.model.config.T

    def _card(self) -> dict[str, Any]:
        return {
            "id": self._settings.name,
            "object": "model",
            "created": self._created,
            "owned_by": "gptjax",
            "max_model_len": self._context,
            "talks": self._worker.model.generation_config.chat_template is not None,
        }

    def _check_alive(self) -> None:
        if self._worker.dead is not None:
            raise ApiError("the engine has died; the server must be started anew", status=503, code="unavailable")

    def _check_ready(self) -> None:
        self._check_alive()
        if not self._worker.ready or self._worker.draining:
            why = "shutting down" if self._worker.draining else "not ready yet"
            raise ApiError(f"the server is {why}", status=503, code="unavailable")

    def _check_model(self, name: str) -> None:
        if name != self._settings.name:
            raise ApiError(
                f"the model {name[:100]!r} does not exist; this server has {self._settings.name!r}",
                "model", status=404, code="model_not_found",
            )  # fmt: skip

    async def _inputs(self, inputs: tuple[requests.Prompt, ...]) -> list[tuple[int, ...]]:
        """Prompts as token ids."""
        model = self._worker.model
        found = await asyncio.to_thread(prepared.prompt_ids, inputs, model, "input")
        for place, ids in enumerate(found):
            prepared.check_length(len(ids), model.config.T, f"input[{place}]")
        return found

    async def _computed(self, request: Request, texts: list[tuple[int, ...]], function: Callable[..., Any]) -> Any:
        self._check_ready()
        return await while_connected(request.receive, self._computing.of(self._worker.model, texts, function))


async def streamed(
    coming: AsyncGenerator[list[Piece]], reply: Reply, count: int, usage: bool, number: str
) -> AsyncGenerator[bytes]:
    """A reply as server-sent events, the last of which is [DONE] or an error."""
    async with contextlib.aclosing(coming):
        yield reply.opening(count, usage)
        try:
            async for some in coming:
                reply.count(some)
                if sum(len(piece.tokens) for piece in some) > MANY_TOKENS:
                    data = await asyncio.to_thread(reply.parts, some, usage)
                else:
                    data = reply.parts(some, usage) if some else PING
                if data:
                    yield data
            yield reply.last(usage)
        except ApiError as error:
            yield event(error.content)
        except Exception as error:
            log_mistake(number, error)
            yield event(our_fault(number).content)


def answer(content: Any) -> Response:
    return Response(as_json(content), media_type="application/json")


def used(prompts: list[tuple[int, ...]]) -> dict[str, int]:
    """The usage of what draws no tokens."""
    count = sum(map(len, prompts))
    return {"prompt_tokens": count, "total_tokens": count}


def packed(row_D: np.ndarray) -> str:
    """Little-endian float32 in base64, as OpenAI's clients ask for."""
    return base64.b64encode(row_D.astype("<f4").tobytes()).decode()


@functools.lru_cache(maxsize=1)
def fingerprint(model: LanguageModel, rows: int) -> str:
    """Another one where the same seed may give another text."""
    scale = np.asarray(jax.device_get(model.params["final_norm"]["scale"]))
    parts = (
        *(version("gptjax"), jax.__version__, repr(model.config), model.tokenizer.fingerprint, str(model.step)),
        *(str(model.dtype), str(rows)),
    )
    return "fp_" + hashlib.sha256("|".join(parts).encode() + scale.tobytes()).hexdigest()[:12]


async def no_such_route(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    where = f"{request.method} {request.url.path}"[:100]
    raise ApiError(f"there is no {where}", status=error.status_code, headers=error.headers)


def chat_page() -> Callable[[Request], Any]:
    """The page. It opens those of looks, which have its policy then: their programs and styles run too."""
    content, headers = PAGE.read_bytes(), page_headers(PAGE, TEMPLATE)

    async def page(request: Request) -> Response:
        return Response(content, headers=headers, media_type="text/html")

    return page


@functools.cache
def page_headers(*pages: Path) -> dict[str, str]:
    """What is told with a page: that it may load nothing from anywhere and talk to this server only, and that no script
    or style runs but those of these pages."""
    content = b"".join(page.read_bytes() for page in pages)

    def hashes(tag: str) -> str:
        parts = re.findall(rf"<{tag}[^>]*>(.*?)</{tag}>".encode(), content, re.DOTALL)
        return " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(part).digest()).decode()}'" for part in parts)

    policy = (
        f"default-src 'none'; script-src {hashes('script')}; style-src {hashes('style')}; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return {"content-security-policy": policy, "cache-control": "no-cache"}
