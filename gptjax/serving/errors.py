"""What a request is refused with, in OpenAI's form: {"error": {"message", "type", "param", "code"}}."""

from collections.abc import Mapping
from typing import Any

from gptjax.files.plain_json import dumps

# status -> (type, code where nothing more exact is known)
KINDS: dict[int, tuple[str, str | None]] = {
    400: ("invalid_request_error", None),
    401: ("authentication_error", "invalid_api_key"),
    403: ("permission_error", None),
    404: ("not_found_error", "not_found"),
    405: ("invalid_request_error", "method_not_allowed"),
    408: ("invalid_request_error", "request_timeout"),
    413: ("invalid_request_error", "request_too_large"),
    415: ("invalid_request_error", "unsupported_media_type"),
    429: ("rate_limit_error", "rate_limit_exceeded"),
    431: ("invalid_request_error", "request_headers_too_large"),
    500: ("server_error", None),
    503: ("server_error", "overloaded"),
}
RETRY_AFTER = {429: "1", 503: "5"}  # seconds


class ApiError(Exception):
    """A request that is not answered. `param`: the field at fault, such as `messages[0].role`.

    What it says goes to the client and nowhere else: it may quote the request, of which nothing is logged.
    """

    def __init__(
        self,
        message: str,
        param: str | None = None,
        *,
        status: int = 400,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ):
        super().__init__(message)
        self.status, self.param = status, param
        self.type, usual = KINDS[status]
        self.code = code or usual
        retry = {"retry-after": RETRY_AFTER[status]} if status in RETRY_AFTER else {}
        self.headers = {**retry, **(headers or {})}

    @property
    def content(self) -> dict[str, Any]:
        """The body of the answer, and of the event that ends a stream."""
        fields = {"message": str(self), "type": self.type, "param": self.param, "code": self.code}
        return {"error": fields}

    @property
    def body(self) -> bytes:
        return dumps(self.content, ensure_ascii=False).encode()


def our_fault(request_id: str) -> ApiError:
    """What a client is told of a mistake of the server: nothing but where to look."""
    return ApiError(f"the server made a mistake; its log has more under {request_id}", status=500)
