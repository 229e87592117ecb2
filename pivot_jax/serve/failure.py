"""What a client gets in place of an answer: an HTTP status, and OpenAI's error object."""

from __future__ import annotations

from typing import Any

_TYPES = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}


class Failure(Exception):
    """A request that cannot be answered.

    Attributes:
      status: of HTTP. message: what is wrong and the fix, for the client's user.
      param: the field of the request, such as ``messages[0].content``. code: OpenAI's word for it, for programs.
    """

    def __init__(self, status: int, message: str, *, param: str | None = None, code: str | None = None):
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code

    @property
    def body(self) -> dict[str, Any]:
        """``{"error": {...}}``."""
        kind = _TYPES.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    @property
    def headers(self) -> dict[str, str]:
        """Of the reply: how to authenticate, when to ask again."""
        if self.status == 401:
            return {"WWW-Authenticate": "Bearer"}
        return {"Retry-After": "1"} if self.status in (429, 503) else {}


def bad(param: str, message: str) -> Failure:
    """A field with a value that is wrong or not supported."""
    return Failure(400, f"{param}: {message}", param=param)
