"""The routes, on FastAPI: bodies are read and checked, answers are sent, and nothing is computed for who has left."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response, StreamingResponse

from pivot_jax.serve import asked, fields, replies
from pivot_jax.serve.answers import Answers
from pivot_jax.serve.asked import Limits
from pivot_jax.serve.failure import Failure
from pivot_jax.serve.guard import Guard, reply
from pivot_jax.serve.model import Served
from pivot_jax.serve.scheduler import Scheduler

T = TypeVar("T")
PREPARED_TOGETHER = 4  # requests whose bodies are read and images decoded at a time
BODY_S = 60.0  # seconds that a body may take
CLOSED = 499  # nginx's status for a client that left; only logs see it
_DRAINED = 8  # times the largest body, which is read and thrown away, so that the client gets to read the reply


def build_app(
    served: Served, scheduler: Scheduler, limits: Limits, *, body_bytes: int, most: int, token: str = ""
) -> Any:
    """The application, for an ASGI server.

    Args:
      body_bytes: of the largest request. most: requests in flight. token: "" for none.
    """
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    endpoint = Endpoint(served, scheduler, limits, body_bytes)
    model = {"id": served.name, "object": "model", "created": int(time.time()), "owned_by": "pivot-jax"}

    @app.get("/health")
    async def health() -> JSONResponse:
        return JSONResponse({"status": "ok", "model": served.name, "requests": scheduler.active})

    @app.get("/v1/models")
    async def models() -> JSONResponse:
        return JSONResponse({"object": "list", "data": [model]})

    @app.get("/v1/models/{name:path}")
    async def one(name: str) -> JSONResponse:
        if name != served.name:
            raise Failure(404, f"model '{name}' is unknown; this server has '{served.name}'", code="model_not_found")
        return JSONResponse(model)

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        return await endpoint.chat(request)

    @app.post("/v1/completions")
    async def completions(request: Request) -> Response:
        return await endpoint.completion(request)

    @app.exception_handler(Failure)
    async def failed(request: Request, failure: Failure) -> JSONResponse:
        return reply(failure)

    @app.exception_handler(ClientDisconnect)
    async def left(request: Request, error: ClientDisconnect) -> JSONResponse:
        return reply(Failure(CLOSED, "the client has closed the connection"))

    @app.exception_handler(Exception)  # starlette raises it again, so the log has its traceback
    async def broken(request: Request, error: Exception) -> JSONResponse:
        return reply(Failure(500, f"a fault of this server ({type(error).__name__}); its log has the reason"))

    @app.exception_handler(HTTPException)
    async def unknown(request: Request, error: HTTPException) -> JSONResponse:
        routes = "GET /health, GET /v1/models, POST /v1/chat/completions and POST /v1/completions"
        known = f"{request.method} {request.url.path} is not served; there are {routes}"
        return reply(Failure(error.status_code, known if error.status_code in (404, 405) else str(error.detail)))

    return Guard(app, token, most)


class Endpoint:
    """The two routes that answer."""

    def __init__(self, served: Served, scheduler: Scheduler, limits: Limits, body_bytes: int):
        self._served, self._limits, self._body_bytes = served, limits, body_bytes
        self._answers = Answers(served, scheduler)
        self._preparing = asyncio.Semaphore(PREPARED_TOGETHER)

    async def chat(self, request: Request) -> Response:
        def prepare(body: bytes) -> Any:
            found = asked.chat(fields.parse(body), self._served.name, self._limits)
            self._served.check_stops(found.wanted.sampling.stop)
            return found, self._served.row(found, self._limits.pixels)

        found, row = await self._prepared(request, prepare)
        if found.wanted.stream:
            return await _stream(request, self._answers.chat_chunks(found, row))
        return JSONResponse(await _watched(request, self._answers.chat(found, row)))

    async def completion(self, request: Request) -> Response:
        def prepare(body: bytes) -> Any:
            found = asked.completion(fields.parse(body), self._served.name, self._limits)
            self._served.check_stops(found.wanted.sampling.stop)
            return found, [self._served.text_row(prompt) for prompt in found.prompts]

        found, rows = await self._prepared(request, prepare)
        if found.wanted.stream:
            return await _stream(request, self._answers.completion_chunks(found, rows))
        return JSONResponse(await _watched(request, self._answers.completion(found, rows)))

    async def _prepared(self, request: Request, prepare: Callable[[bytes], T]) -> T:
        """What ``prepare`` makes of the body, in a thread: the event loop has other clients."""
        async with self._preparing:
            try:
                async with asyncio.timeout(BODY_S):
                    body = await self._body(request)
            except TimeoutError:
                raise Failure(408, f"the body took longer than {BODY_S:g} seconds") from None
            return await asyncio.to_thread(prepare, body)

    async def _body(self, request: Request) -> bytes:
        """Raises Failure 413 for one that is too large, of which no more than the limit is kept."""
        size, parts, most = 0, [], self._body_bytes
        async for part in request.stream():
            size += len(part)
            if size <= most:
                parts.append(part)
            elif parts:
                parts.clear()
            if size > _DRAINED * most:
                break
        if size > most:
            limit = f"{most / 2**20:g} MiB"
            raise Failure(413, f"the body is larger than {limit} (--max-body-mib); send smaller or fewer images",
                          code="body_too_large")  # fmt: skip
        return b"".join(parts)


async def _watched(request: Request, work: Awaitable[T]) -> T:
    """The result of ``work``, which is cancelled as soon as the client is gone."""
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientDisconnect
    finally:
        for one in (task, gone):
            one.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _stream(request: Request, chunks: AsyncGenerator[dict[str, Any], None]) -> StreamingResponse:
    """Chunks as server-sent events. What is wrong with a request is known with the first one, before the status."""
    first = await _watched(request, anext(chunks))
    return StreamingResponse(
        _events(first, chunks), media_type="text/event-stream", headers={"Cache-Control": "no-store"}
    )


async def _events(first: dict[str, Any], chunks: Any) -> AsyncIterator[bytes]:
    try:
        yield replies.event(first)
        async for chunk in chunks:
            yield replies.event(chunk)
        yield replies.DONE
    except Failure as failure:
        yield replies.event(failure.body)
    finally:  # the client may be gone
        await chunks.aclose()
