"""The rollout engine over running vLLM servers: prompts spread over them, weights handed over through a folder."""

from __future__ import annotations

import contextlib
import threading
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax

from pivot_jax.data.processing.processor import Processor
from pivot_jax.errors import RowError, UserError
from pivot_jax.rollout.engine import Prompt, Response, Rollouts, Sampling
from pivot_jax.rollout.request import check_numbers, check_sampling, limit_of
from pivot_jax.rollout.stops import Stops
from pivot_jax.rollout.vllm import compatibility, request, weights
from pivot_jax.rollout.vllm.server import Limits, Server

Export = Callable[[Any, Path], Any]
MOST_REQUESTS = 64  # in flight at one server
RELOADS = 3  # of a server during one rollout


@dataclass(frozen=True)
class Servers:
    """Where the servers are, and how they are used.

    Attributes:
      urls: such as ``("http://host:8000",)``; prompts are spread over all of them.
      folder: where weights are handed over. Every server sees it under the same path; it is replaced at every update.
      limits: how long a server is waited for.
      api_key: of ``--api-key``; "": none.
      checksums: compare a server's checksums with the folder after every update. The server reads all its weights for
        that, 10 seconds or so for a model of 7B.
    """

    urls: tuple[str, ...]
    folder: Path
    limits: Limits = field(default_factory=Limits)
    api_key: str = ""
    checksums: bool = True


class VLLM:
    """Samples responses with vLLM servers (a ``rollout.engine.Engine``).

    ``logps`` are NaN where top-p, top-k or min-p truncate: vLLM then returns the log-probs of the truncated
    distribution only (``sampling_logps``), and the trainer computes ``logps`` with the parameters of this version.

    Args:
      processor: the trainer's.
      export: writes parameters to a folder as a Hugging Face checkpoint, replacing what it wrote there before, such as
        ``lambda params, folder: hub_export.write(config, params, tokenizer, folder, ExportOptions(overwrite=True))``.

    Raises:
      UserError: no server, one that does not answer, lacks a flag, or has another tokenizer, chat template or
        vocabulary; or a run of several processes.
    """

    def __init__(self, servers: Servers, processor: Processor, export: Export):
        if not servers.urls or len(set(servers.urls)) < len(servers.urls):
            raise UserError(f"vLLM servers: name each one's URL once (got {list(servers.urls)})")
        if jax.process_count() > 1:
            raise UserError(
                f"vLLM rollouts need a training run of one process, this one has {jax.process_count()}; use the jax "
                "engine"
            )
        self._settings, self._processor, self._export = servers, processor, export
        self.servers = [Server(url, servers.limits, servers.api_key) for url in servers.urls]
        self._traits: dict[str, compatibility.Traits] = {}
        self._checked: set[str] = set()  # servers whose model is known to be the trainer's
        self._weights: weights.Weights | None = None
        self._version = 0
        self._each(self._meet)

    def update(self, params: Any, version: int) -> None:
        """Writes the parameters to the folder, and makes every server load them; see ``rollout.engine.Engine``.

        Raises:
          UserError: the folder cannot be written, or a server cannot load it or has another model.
        """
        self._export(params, self._settings.folder)
        self._weights, self._version = weights.read(self._settings.folder, version), version
        self._each(self._hand_over)

    def generate(
        self,
        prompts: Sequence[Prompt],
        n: int,
        sampling: Sampling,
        seed: tuple[int, int],
        done: Callable[[int], Any] = lambda count: None,
    ) -> Rollouts:
        """``n`` responses to each prompt; see ``rollout.engine.Engine``. ``done(count)`` is called as they arrive.

        A server that was restarted since the update gets the weights again. One that does not answer is asked again
        until patience ends. Then the rollout fails, and its requests at other servers are ended.

        Raises:
          UserError: a prompt that cannot be answered, settings that vLLM does not sample with, no update before, or a
            server that failed; the message names it.
        """
        if self._weights is None:
            raise UserError("vLLM servers have weights of their own; call update(params, version) before generate")
        check_sampling(n, sampling, self._weights.vocabulary)
        request.check_temperature(sampling)
        Stops(self._processor.chat.tokenizer, sampling.stop, sampling.banned_ids)
        check_numbers(prompts)
        for prompt in prompts:
            self._check_length(prompt, sampling)
        rollout = _Rollout(len(prompts))
        turns = [(turn, server) for server in self.servers for turn in range(self._requests(server, n))]
        workers = [server for _, server in sorted(turns, key=lambda x: x[0])]  # few prompts are spread too

        def work(server: Server) -> None:
            try:
                while (index := rollout.take()) is not None:
                    rollout.answers[index] = self._answer(server, prompts[index], n, sampling, seed, rollout)
                    rollout.count(n, done)
            except BaseException as error:
                rollout.fail(error)
                raise

        self._each(self._restore)
        with ThreadPoolExecutor(max(1, len(workers)), thread_name_prefix="vllm") as pool:
            try:
                wait([pool.submit(work, server) for server in workers], return_when=FIRST_EXCEPTION)
            finally:
                self._end(rollout)
        if rollout.error is not None:
            raise rollout.error
        return Rollouts(tuple(rollout.answers), self._version)

    def close(self) -> None:
        """Closes the connections. The servers keep running, and the folder stays."""
        for server in self.servers:
            server.close()

    def _meet(self, server: Server) -> None:
        self._checked.discard(server.url)
        self._traits[server.url] = compatibility.traits(server)
        compatibility.check_tokens(server, self._processor)

    def _hand_over(self, server: Server) -> None:
        assert self._weights is not None
        traits = self._traits[server.url]
        if server.url not in self._checked:
            compatibility.check_model(server, traits.device, self._weights)
            self._checked.add(server.url)
        weights.hand_over(server, self._weights, traits.dtype, checksums=self._settings.checksums)

    def _restore(self, server: Server) -> None:
        """Gives a server that was restarted the weights again."""
        assert self._weights is not None
        with server.lock:
            if weights.version(server) != self._weights.label:
                self._meet(server)
                self._hand_over(server)

    def _each(self, act: Callable[[Server], None]) -> None:
        """Of all servers at once. Raises the error of the first that has one, after all have ended."""
        with ThreadPoolExecutor(len(self.servers), thread_name_prefix="vllm") as pool:
            for future in [pool.submit(act, server) for server in self.servers]:
                future.result()

    def _check_length(self, prompt: Prompt, sampling: Sampling) -> None:
        total = len(prompt.row.tokens) + limit_of(prompt, sampling, 0)
        for server in self.servers:
            longest = self._traits[server.url].max_length
            if total > longest:
                raise RowError(
                    prompt.row.id,
                    f"prompt and response may take {total} tokens, vLLM server {server.url} takes {longest}; start it "
                    f"with --max-model-len {total} or more",
                )

    def _requests(self, server: Server, n: int) -> int:
        """Requests in flight that keep the server busy: twice the prompts that it computes at once."""
        return min(MOST_REQUESTS, 2 * -(-self._traits[server.url].rows // n))

    def _answer(
        self, server: Server, prompt: Prompt, n: int, sampling: Sampling, seed: tuple[int, int], rollout: _Rollout
    ) -> tuple[Response, ...]:
        """n responses to one prompt; a greedy one is sampled once."""
        body = request.body(prompt, self._processor)
        greedy, first = sampling.temperature == 0, request.seed_of(seed, prompt.number)
        found: list[Response] = []
        while len(found) < (1 if greedy else n):
            count = 1 if greedy else min(n - len(found), self._traits[server.url].rows)
            settings = request.parameters(sampling, limit_of(prompt, sampling, 0), count, first + len(found))
            found += self._ask(server, prompt, {**body, "sampling_params": settings}, sampling, rollout)
        return tuple(found * n if greedy else found)

    def _ask(
        self, server: Server, prompt: Prompt, body: dict[str, Any], sampling: Sampling, rollout: _Rollout
    ) -> list[Response]:
        """Responses sampled from this version's weights."""
        assert self._weights is not None
        body = {**body, "model": self._traits[server.url].name}
        for _ in range(RELOADS):
            with rollout.in_flight(server) as name:
                answer = server.post(request.ENDPOINT, {**body, "request_id": name}, stop=rollout.stop)
            if request.versions(answer) == {self._weights.label}:
                request.check_expansion(prompt.row, answer, server.url)
                return request.responses(answer, sampling, f"vLLM server {server.url}, row '{prompt.row.id}'")
            self._restore(server)
        raise UserError(
            f"vLLM server {server.url} answered with weights {sorted(request.versions(answer))} instead of "
            f"'{self._weights.label}', {RELOADS} times; another run changes them, give each run its own servers"
        )

    def _end(self, rollout: _Rollout) -> None:
        """Ends the requests that are still in flight, which there are after a failure only."""
        rollout.stop.set()
        for server, names in rollout.flying():
            with contextlib.suppress(UserError):  # a server that is down computes nothing
                server.post("/abort_requests", {"request_ids": names}, repeat=False, stop=rollout.stop)


class _Rollout:
    """What the threads of one rollout share.

    Attributes:
      answers: by the prompt's index.
      stop: set when the rollout ends.
      error: the first; those after it may be its consequences.
    """

    def __init__(self, count: int):
        self.answers: list[tuple[Response, ...]] = [()] * count
        self.stop = threading.Event()
        self.error: BaseException | None = None
        self._waiting, self._flying = deque(range(count)), dict[str, Server]()
        self._lock = threading.Lock()

    def take(self) -> int | None:
        """Index of a prompt that nobody has taken yet; None: there is none, or the rollout has failed."""
        with self._lock:
            return self._waiting.popleft() if self._waiting and not self.stop.is_set() else None

    def count(self, responses: int, done: Callable[[int], Any]) -> None:
        with self._lock:
            done(responses)

    def fail(self, error: BaseException) -> None:
        with self._lock:
            self.error = self.error or error
            self.stop.set()

    @contextlib.contextmanager
    def in_flight(self, server: Server) -> Iterator[str]:
        """A name for a request to the server, by which it can be ended."""
        name = uuid.uuid4().hex
        with self._lock:
            self._flying[name] = server
        try:
            yield name
        finally:
            with self._lock:
                del self._flying[name]

    def flying(self) -> list[tuple[Server, list[str]]]:
        """Servers with the requests that they still compute, by the names that they know them under."""
        with self._lock:
            found = dict(self._flying)
        servers = {server.url: server for server in found.values()}
        return [(x, [f"generate-tokens-{k}" for k, v in found.items() if v is x]) for x in servers.values()]
