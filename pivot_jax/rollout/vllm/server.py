"""One running vLLM server: its endpoints over HTTP, with limits on time and errors that name it."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import dataclass, field
from typing import Any

import urllib3
from urllib3.exceptions import HTTPError, ReadTimeoutError

from pivot_jax.errors import UserError

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 10.0  # seconds between two tries
AWAY = (502, 503, 504)  # a proxy before the server, or a server that is starting or stopping
FAILED = 500  # such as an engine that died
CONNECT_S = 10.0
RESUMES = "start it again (see 'vLLM servers' in ARCHITECTURE.md) and run the same command, which resumes"


@dataclass(frozen=True)
class Limits:
    """How long a server is waited for.

    Attributes:
      patience_s: seconds of tries, with growing pauses, where it cannot be reached or its engine failed.
      request_s: seconds until a request that it accepted is given up.
    """

    patience_s: float = 60.0
    request_s: float = 1800.0


class Absent(UserError):
    """The server has no such endpoint."""


class Rejected(UserError):
    """The server does not take the request (400, 422)."""


class Failed(UserError):
    """The server answered with an error of its own (500); a request that may be repeated has been."""


@dataclass(eq=False)
class Server:
    """One server. Its methods are safe for several threads.

    Attributes:
      url: such as ``http://host:8000``.
      api_key: of ``--api-key``; "": none.
      lock: for whoever changes its weights.
    """

    url: str
    limits: Limits = field(default_factory=Limits)
    api_key: str = ""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.url = self.url.rstrip("/")
        if not self.url.startswith(("http://", "https://")):
            raise UserError(f"vLLM server '{self.url}': the URL starts with http:// or https://, as http://host:8000")
        headers = {"content-type": "application/json"}
        headers |= {"authorization": f"Bearer {self.api_key}"} if self.api_key else {}
        self._pool = urllib3.PoolManager(maxsize=256, headers=headers, retries=False)

    def get(self, path: str) -> Any:
        """The JSON of a GET request. Raises as :meth:`post`."""
        return self._ask("GET", path, None, True, None)

    def post(self, path: str, body: Any, *, repeat: bool = True, stop: threading.Event | None = None) -> Any:
        """The JSON of a POST request; None where the answer is empty.

        Args:
          repeat: the request may be repeated where the server failed (500), not only where it could not be reached.
          stop: when set, there are no more tries.

        Raises:
          Absent: no such endpoint.
          Failed: 500 (with ``repeat``: until patience ended).
          Rejected: it does not take the request.
          UserError: the server cannot be reached, or did not answer in time.
        """
        return self._ask("POST", path, body, repeat, stop)

    def close(self) -> None:
        self._pool.clear()

    def _ask(self, method: str, path: str, body: Any, repeat: bool, stop: threading.Event | None) -> Any:
        stop, start, pause, tries = stop or threading.Event(), time.monotonic(), FIRST_PAUSE, 0
        data = None if body is None else json.dumps(body).encode()
        while True:
            tries += 1
            status, reason = self._once(method, path, data)
            if isinstance(status, dict | list) or status is None:
                return status
            spent = time.monotonic() - start
            if not (status in AWAY or (status == FAILED and repeat)) or spent + pause > self.limits.patience_s:
                raise self._error(method, path, status, f"{reason}; {tries} tries in {spent:.0f} s")
            if stop.wait(pause):
                raise self._error(method, path, status, reason)
            pause = min(2 * pause, LONGEST_PAUSE)

    def _once(self, method: str, path: str, data: bytes | None) -> tuple[Any, str]:
        """(JSON, "") of an answer, or (status, reason); where the server cannot be reached, the status is 503."""
        timeout = urllib3.Timeout(connect=CONNECT_S, read=self.limits.request_s)
        try:
            answer = self._pool.request(method, self.url + path, body=data, timeout=timeout)
        except ReadTimeoutError:
            raise UserError(
                f"vLLM server {self.url} did not answer {method} {path} within {self.limits.request_s:g} s; look at "
                "its log, or raise the limit (request_s)"
            ) from None
        except HTTPError as error:
            return AWAY[1], f"{type(error).__name__}: {_short(str(error))}"
        if answer.status >= 400:
            return answer.status, _message(answer.data)
        try:
            return (json.loads(answer.data) if answer.data else None), ""
        except ValueError:
            return FAILED, f"not JSON: {_short(answer.data.decode(errors='replace'))}"

    def _error(self, method: str, path: str, status: int, reason: str) -> UserError:
        where = f"vLLM server {self.url}"
        if status in AWAY:
            return UserError(f"{where} does not answer ({reason}); {RESUMES}")
        if status == FAILED:
            return Failed(f"{where} failed at {method} {path} ({reason}); look at its log; {RESUMES}")
        if status in (403, 404):  # 403: an endpoint that a flag enables
            return Absent(f"{where} has no {path} ({reason})")
        if status == 401:
            return UserError(f"{where} wants another key; give its --api-key as api_key")
        return Rejected(f"{where} rejects {method} {path} (HTTP {status}: {reason})")


def _message(data: bytes) -> str:
    """What an answer with an error says: vLLM's, FastAPI's, or its text."""
    try:
        found = json.loads(data)
        error = found.get("error", found)
        return _short(str(error.get("message") or error.get("detail") or found))
    except (ValueError, AttributeError):
        return _short(data.decode(errors="replace"))


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 300 else f"{line[:297]}..."
