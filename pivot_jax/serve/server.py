"""The endpoint as a process: a socket, the thread of the event loop, and an end at a signal."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

from pivot_jax.errors import UserError
from pivot_jax.serve.asked import Limits
from pivot_jax.serve.model import Served
from pivot_jax.serve.scheduler import Scheduler
from pivot_jax.train.signals import stopping

log = logging.getLogger(__name__)
TOKEN = "PIVOT_SERVE_TOKEN"  # environment variable
LOOPBACK = ("127.0.0.1", "::1", "localhost")
_CLOSING_S = 5  # seconds for open connections at the end


@dataclass(frozen=True)
class Settings:
    """Of a server.

    Attributes:
      host, port: where it listens; port 0: any free one.
      token: that requests have to show; "": none.
      slots: responses that are decoded together. queue: requests beyond these that wait; more get 429.
      body_mib: of the largest request. image_pixels: of the largest image.
      tokens: of the longest answer that may be asked for.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    token: str = ""
    slots: int = 16
    queue: int = 256
    body_mib: int = 64
    image_pixels: int = 1 << 26
    tokens: int = 4096


def listen(settings: Settings) -> socket.socket:
    """The socket, before anything long is done.

    Raises:
      UserError: the address is in use, not allowed or not this machine's; or FastAPI is not installed.
    """
    try:
        import fastapi  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise UserError(f"serving needs {error.name}; pip install 'pivot-jax[serve]'") from None
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        found = socket.socket(family, kind, protocol)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(address)
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(
            f"--host {settings.host} --port {settings.port}: {reason}; choose another port (0: any free one) or host"
        ) from None
    if settings.host not in LOOPBACK and not settings.token:
        log.warning("anybody who reaches %s can use this server; give it a --token, or $%s", settings.host, TOKEN)
    return found


class Server:
    """A served model on a socket; the context in which it answers.

    Args:
      listening: the socket, from :func:`listen`.
    """

    def __init__(self, served: Served, settings: Settings, listening: socket.socket):
        import uvicorn

        from pivot_jax.serve.app import build_app

        self._socket = listening
        self._scheduler = Scheduler(served, settings.slots)
        limits = Limits(settings.tokens, settings.image_pixels, served.images)
        app = build_app(
            served, self._scheduler, limits, body_bytes=settings.body_mib << 20,
            most=settings.slots + settings.queue, token=settings.token,
        )  # fmt: skip
        config = uvicorn.Config(
            app, log_level="warning", access_log=False, lifespan="off", timeout_graceful_shutdown=_CLOSING_S
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, args=([listening],), name="http", daemon=True)

    @property
    def url(self) -> str:
        host, port = self._socket.getsockname()[:2]
        return f"http://{f'[{host}]' if ':' in host else host}:{port}/v1"

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def __enter__(self) -> Server:
        self._scheduler.start()
        self._thread.start()
        while not self._server.started and self._thread.is_alive():
            time.sleep(0.01)
        return self

    def __exit__(self, *_: Any) -> None:
        """Requests in flight get 503, and the port is free."""
        self._server.should_exit = True
        self._scheduler.stop(timeout=_CLOSING_S)  # a compilation cannot be interrupted; the process ends without it
        self._thread.join(2 * _CLOSING_S)
        self._socket.close()


def serve(served: Served, settings: Settings, listening: socket.socket) -> int:
    """Answers until a signal comes; returns its exit code, 128 + its number."""
    with _signals() as received, Server(served, settings, listening) as server:
        print(f"{served.name} at {server.url} (stop with Ctrl-C)", flush=True)
        while not received and server.alive:
            time.sleep(0.1)
    if not received:
        raise UserError("the HTTP server ended by itself; its log has the reason")
    return 128 + received[0]


@contextmanager
def _signals() -> Iterator[list[int]]:
    """The signals that stop a run are noted; a second Ctrl-C ends the process at once."""
    received: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        if received and number == signal.SIGINT:
            os._exit(128 + number)
        received.append(number)

    before = {number: signal.signal(number, note) for number in stopping()}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
