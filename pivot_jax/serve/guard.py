"""What happens to a request before its body is read: its token, and how many are in flight."""

from __future__ import annotations

import hmac
from typing import Any

from starlette.responses import JSONResponse

from pivot_jax.serve.failure import Failure

_OPEN = ("/health",)  # paths without a token


def reply(failure: Failure) -> JSONResponse:
    """A failure as a response."""
    return JSONResponse(failure.body, failure.status, headers=failure.headers)


class Guard:
    """An ASGI application around another one.

    Args:
      token: that requests have to show, as ``Authorization: Bearer TOKEN``; "": none.
      most: requests in flight; more get 429. Each holds its body and its images in memory.
    """

    def __init__(self, app: Any, token: str, most: int):
        self._app, self._token, self._most = app, token.encode(), most
        self._running = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            self._check(scope)
        except Failure as failure:
            await reply(failure)(scope, receive, send)
            return
        if scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        self._running += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._running -= 1

    def _check(self, scope: Any) -> None:
        if self._token and scope["path"] not in _OPEN:
            shown = dict(scope["headers"]).get(b"authorization", b"")
            kind, _, token = shown.partition(b" ")
            if kind.lower() != b"bearer" or not hmac.compare_digest(token.strip(), self._token):
                what = "the token is wrong" if shown else "no token"
                fix = "send the server's as 'Authorization: Bearer TOKEN' (the client's api_key)"
                raise Failure(401, f"{what}; {fix}", code="invalid_api_key")
        if scope["method"] == "POST" and self._running >= self._most:
            raise Failure(
                429, f"{self._running} requests are in flight, as many as this server takes (--slots and --queue); "
                "send it again later", code="queue_full",
            )  # fmt: skip
