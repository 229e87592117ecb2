"""Requests per second of `pivot-jax serve`: 32 clients at once compared with one, and with other servers.

    python benchmarks/serve.py --weights hf:FOLDER [--other vllm=http://127.0.0.1:8001/v1] [--clients 1 32]

Every request asks about an image of noise of its own (`--pixels 0`: about text alone) for `--tokens` greedy tokens; a
model that ends its answers earlier gives fewer, so tokens are counted as the replies do. Each number of clients sends
`--requests` requests in a round, a client one after the other; servers and numbers of clients take turns. A server that
is named by its URL runs already, with the same weights, such as `transformers serve` or vLLM: it, its settings and its
cores are the user's. Its model is the first of its /v1/models.
"""

from __future__ import annotations

import argparse
import base64
import http.client
import io
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import measure
import numpy as np
from measure import ROOT, Record, SideError
from PIL import Image

QUESTION = "Describe the image in detail, from left to right."
TIMEOUT_S = 1800.0


@dataclass(frozen=True)
class Endpoint:
    """A server's address, as http://host:port/v1, and the name of its model."""

    url: str
    model: str

    @classmethod
    def at(cls, url: str) -> Endpoint:
        """Asks for the name of the model. Raises SideError where nothing answers."""
        found = _send(url, "GET", "/models")
        return cls(url, found["data"][0]["id"])

    def ask(self, image: str, tokens: int) -> int:
        """Tokens of one answer."""
        parts: list[dict[str, Any]] = [{"type": "image_url", "image_url": {"url": image}}] if image else []
        parts.append({"type": "text", "text": QUESTION})
        body = {"model": self.model, "messages": [{"role": "user", "content": parts}], "max_tokens": tokens}
        return _send(self.url, "POST", "/chat/completions", body | {"temperature": 0})["usage"]["completion_tokens"]


def _send(url: str, method: str, path: str, body: Any = None) -> Any:
    where = urlsplit(url)
    connection = http.client.HTTPConnection(where.hostname or "", where.port, timeout=TIMEOUT_S)
    try:
        content = None if body is None else json.dumps(body)
        connection.request(method, where.path + path, content, {"Content-Type": "application/json"})
        reply = connection.getresponse()
        text = reply.read().decode()
        if reply.status != 200:
            raise SideError(f"{url}{path}: {reply.status} {text[:300]}")
        return json.loads(text)
    except OSError as error:
        raise SideError(f"{url}: {measure.one_line(error)}") from error
    finally:
        connection.close()


def images(count: int, pixels: int) -> list[str]:
    """data: URLs of noise, which no server can have seen; "" without pixels."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(count):
        if not pixels:
            found.append("")
            continue
        file = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (pixels, pixels, 3), np.uint8)).save(file, "JPEG")
        found.append(f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}")
    return found


@dataclass(frozen=True)
class Round:
    """One round: seconds in all, tokens of each answer, and seconds of each request."""

    seconds: float
    tokens: list[int]
    waits: list[float]


def one_round(endpoint: Endpoint, clients: int, urls: list[str], tokens: int) -> Round:
    """All requests, by so many clients."""
    start = threading.Barrier(clients + 1)

    def client(number: int) -> list[tuple[int, float]]:
        start.wait()
        found = []
        for url in urls[number::clients]:
            began = time.perf_counter()
            found.append((endpoint.ask(url, tokens), time.perf_counter() - began))
        return found

    with ThreadPoolExecutor(clients) as pool:
        running = [pool.submit(client, number) for number in range(clients)]
        start.wait()
        began = time.perf_counter()
        answers = [answer for one in running for answer in one.result()]
        seconds = time.perf_counter() - began
    return Round(seconds, [count for count, _ in answers], [wait for _, wait in answers])


class Ours:
    """`pivot-jax serve` in a process of its own."""

    def __init__(self, weights: str, slots: int, tokens: int):
        argv = [sys.executable, "-m", "pivot_jax.cli", "serve", "--weights", weights, "--port", "0"]
        argv += ["--slots", str(slots), "--max-tokens", str(tokens)]
        path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        self._process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": path})
        assert self._process.stdout
        words = self._process.stdout.readline().split()
        if len(words) < 3:
            raise SideError(f"pivot-jax serve ended with code {self._process.wait()}")
        self.url = words[2]

    def close(self) -> None:
        self._process.terminate()
        self._process.wait()


def measured(rounds: list[Round]) -> dict[str, Any]:
    return {
        "requests_per_s": measure.summary([len(one.tokens) / one.seconds for one in rounds]),
        "tokens_per_s": measure.summary([sum(one.tokens) / one.seconds for one in rounds]),
        "tokens_of_an_answer": statistics.mean([count for one in rounds for count in one.tokens]),
        "seconds_of_a_request": measure.summary([wait for one in rounds for wait in one.waits]),
    }


def run(endpoints: dict[str, Endpoint], args: argparse.Namespace, record: Record) -> None:
    urls = images(args.requests, args.pixels)
    cases = {(name, clients): end for name, end in endpoints.items() for clients in args.clients}
    rounds: dict[tuple[str, int], list[Round]] = {case: [] for case in cases}
    for turn in range(args.rounds + 1):  # the first one compiles
        for (name, clients), endpoint in cases.items():
            found = one_round(endpoint, clients, urls, args.tokens)
            if turn:
                rounds[name, clients].append(found)
            print(f"round {turn}, {name}, {clients} clients: {found.seconds:.2f} s", flush=True)
    for name in endpoints:
        record.add(name, {str(clients): measured(rounds[name, clients]) for clients in args.clients})
    first, last = args.clients[0], args.clients[-1]
    for name in endpoints:
        one, many = (statistics.median(len(r.tokens) / r.seconds for r in rounds[name, c]) for c in (first, last))
        print(f"{name}: {one:.2f} requests/s with {first}, {many:.2f} with {last} ({many / one:.2f} times)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", metavar="SOURCE", default="", help="of our server: run:DIR or hf:DIR")
    parser.add_argument(
        "--other", metavar="NAME=URL", action="append", default=[], help="a server that runs already; repeatable"
    )
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 32])
    parser.add_argument("--requests", type=int, default=64, help="of a round (default 64)")
    parser.add_argument("--tokens", type=int, default=64, help="of an answer at most (default 64)")
    parser.add_argument("--pixels", type=int, default=224, help="side of the images (default 224; 0: text alone)")
    parser.add_argument("--slots", type=int, default=32, help="of our server (default 32)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=measure.RESULTS / "serve.json")
    args = parser.parse_args()
    if not args.weights and not args.other:
        parser.error("name --weights, --other, or both")
    ours = Ours(args.weights, args.slots, args.tokens) if args.weights else None
    try:
        addresses = ({"ours": ours.url} if ours else {}) | dict(one.split("=", 1) for one in args.other)
        record = Record(args.out, os.environ.get("JAX_PLATFORMS") or "default")
        run({name: Endpoint.at(url) for name, url in addresses.items()}, args, record)
    finally:
        if ours:
            ours.close()


if __name__ == "__main__":
    main()
