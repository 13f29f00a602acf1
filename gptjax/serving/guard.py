"""What every request passes before any route: who may ask, from where, and how many at once.

Answers carry the request's number, and no mistake of the server leaves it but as an error of OpenAI's form.
"""

import hashlib
import hmac
import logging
import traceback
import uuid
from collections.abc import Sequence

from prometheus_client import Counter
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gptjax.serving.api.bodies import ErrorAnswer
from gptjax.serving.errors import ApiError, our_fault
from gptjax.serving.settings import Settings

log = logging.getLogger(__name__)

OPEN = frozenset({"/", "/healthz", "/readyz", "/health"})  # need no key: the page, which asks for it, and probes
COUNTED = frozenset({"rate_limit_exceeded", "unavailable"})
ALWAYS = {"x-content-type-options": "nosniff", "referrer-policy": "no-referrer"}


class Guard:
    """An ASGI application around another. `rejected` counts by reason; what the worker rejects it has counted."""

    def __init__(self, app: ASGIApp, settings: Settings, rejected: Counter):
        self._app, self._settings, self._rejected = app, settings, rejected
        self._keys = Keys(settings.keys)
        self._under_way = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        number = f"req_{uuid.uuid4().hex}"
        started = False

        async def numbered(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                headers = MutableHeaders(scope=message)
                headers["x-request-id"] = number
                for name, value in {**ALWAYS, "cache-control": "no-store"}.items():
                    headers.setdefault(name, value)
            await send(message)

        self._under_way += 1
        try:
            scope.setdefault("state", {}).update(number=number, client=self._admitted(scope))
            await self._app(scope, receive, numbered)
        except ApiError as error:
            if error.code not in COUNTED:
                self._rejected.labels(error.code or error.type).inc()
            await ErrorAnswer(error)(scope, receive, numbered)
        except ClientDisconnect:
            pass
        except Exception as error:
            log_mistake(number, error)
            if started:  # the connection is cut: an answer that breaks off must not look whole
                raise Broken from None
            await ErrorAnswer(our_fault(number))(scope, receive, numbered)
        finally:
            self._under_way -= 1

    def _admitted(self, scope: Scope) -> str:
        """By which name the client takes turns with others. Raises ApiError where it may not ask."""
        headers = Headers(scope=scope)
        self._check_host(headers)
        key = self._keys.of(headers) if scope["path"] not in OPEN else None
        if self._under_way > self._settings.requests and scope["path"] not in OPEN:
            raise ApiError(f"{self._settings.requests} requests are under way, which is all there may be", status=503)
        if key is not None:
            return f"key {key}"
        return scope["client"][0] if scope.get("client") else "local"

    def _check_host(self, headers: Headers) -> None:
        """Against pages of strangers: those that call across sites, and those whose own name points here."""
        hosts, allowed = headers.getlist("host"), self._settings.hosts
        if len(hosts) > 1 or (not hosts and allowed is not None):
            raise ApiError(f"the request has {len(hosts)} Host headers; must have one")
        if allowed is not None and _without_port(hosts[0]).lower() not in allowed:
            raise ApiError("this server is not known by the name in the Host header", status=403)
        for origin in headers.getlist("origin"):
            if not hosts or origin.lower().partition("://")[2] != hosts[0].lower():
                raise ApiError("pages of other sites may not use this server", status=403)


class Broken(Exception):  # noqa: N818
    """An answer was cut off; what happened has been logged."""


class Keys:
    """API keys, compared in a time that does not depend on them."""

    def __init__(self, keys: Sequence[str]):
        self._digests = [_digest(key.encode()) for key in keys]

    def of(self, headers: Headers) -> int | None:
        """Which key a request bears; None = nobody needs one. Raises ApiError."""
        if not self._digests:
            return None
        given = headers.getlist("authorization")
        scheme, _, key = given[0].strip().partition(" ") if len(given) == 1 else ("", "", "")
        digest = _digest(key.strip().encode("latin-1"))
        found = [hmac.compare_digest(digest, known) for known in self._digests]
        if scheme.lower() != "bearer" or True not in found:
            why = "is not known" if len(given) == 1 else f"is missing: {len(given)} Authorization headers came, not one"
            raise ApiError(
                f"the API key {why}; send the header `Authorization: Bearer KEY`",
                status=401, headers={"www-authenticate": "Bearer"},
            )  # fmt: skip
        return found.index(True)


def log_mistake(number: str, error: BaseException) -> None:
    """Where it happened and what it is, without its message, which may hold what somebody wrote."""
    frames = "".join(traceback.format_tb(error.__traceback__))
    log.error("%s: %s\n%s", number, type(error).__name__, frames)


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


def _without_port(host: str) -> str:
    """`[::1]:80` -> `[::1]`."""
    end = host.find("]") + 1 or host.find(":")
    return host[:end] if end > 0 else host
