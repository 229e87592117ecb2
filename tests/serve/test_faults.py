"""What goes wrong around a live server, which then answers the next request: bad requests, limits, leaving clients."""

from __future__ import annotations

import base64
import io
import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import httpx
import openai
import pytest
from PIL import Image

from pivot_jax.serve.scheduler import ENDING
from pivot_jax.serve.server import Server, Settings, listen
from tests.serve.conftest import NAME, answered, ask, bomb, client_of, data_url, requests, turn


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def is_alive(client, folder):
    assert answered(client, folder, 0, max_tokens=3).usage.completion_tokens == 3


def image_url(size: tuple[int, int], kind: str = "PNG") -> str:
    file = io.BytesIO()
    Image.new("RGB", size, (9, 9, 200)).save(file, kind)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"


def test_malformed_requests_get_400_and_the_server_lives(server, client, folder):
    url, good = f"{server.url}/chat/completions", turn(data_url(folder / "0.png"))
    bodies = [b"", b"{", b"[]", b'"x"', b"\xff\xfe", b'{"model": "tiny"}', json.dumps({"messages": good}).encode()]
    bodies += [json.dumps({"model": NAME, "messages": good, "stop": "\ud83d"}).encode()]  # half of a character
    for body in bodies:
        found = httpx.post(url, content=body)
        assert found.status_code == 400 and found.json()["error"]["type"] == "invalid_request_error", body
    cases = {
        "temperature: 3 is not a number from 0 to 2": {"temperature": 3},
        "colour: an unknown field": {"extra_body": {"colour": "red"}},
        "control token '<|im_end|>'": {"messages": [{"role": "user", "content": "<|im_end|>"}]},
        "2 images, and this model takes at most 1": {"messages": turn(*[data_url(folder / "0.png")] * 2)},
        "not an image": {"messages": turn("data:image/png;base64,aGVsbG8=")},
        "fetches nothing": {"messages": turn("http://127.0.0.1:1/x.png")},
        "the prompt has": {"messages": [{"role": "user", "content": "red " * 9000}]},
        "stream_options": {"stream_options": {"include_usage": True}},
    }
    for says, options in cases.items():
        for stream in (False, True) if "stream_options" not in says else (False,):
            with pytest.raises(openai.BadRequestError) as error:
                ask(client, **{"messages": good, "stream": stream, **options})
            assert says in error.value.message and error.value.body["param"], says
    with pytest.raises(openai.BadRequestError, match="the id 330; the model's ids are 0 to 329"):
        client.completions.create(model=NAME, prompt=[1, 330])
    with pytest.raises(openai.BadRequestError, match="the prompt has 8193 tokens, the limit is 8192") as error:
        client.completions.create(model=NAME, prompt=[1] * 8193)
    assert error.value.code == "context_length_exceeded"
    is_alive(client, folder)


def test_unknown_models_and_routes_are_404(server, client):
    with pytest.raises(openai.NotFoundError, match="model: 'gpt' is unknown; this server has 'tiny'"):
        client.chat.completions.create(model="gpt", messages=[{"role": "user", "content": "x"}])
    with pytest.raises(openai.NotFoundError, match="model 'gpt' is unknown"):
        client.models.retrieve("gpt")
    with pytest.raises(openai.NotFoundError, match="POST /v1/embeddings is not served; there are GET /health"):
        client.embeddings.create(model=NAME, input="x")
    found = httpx.get(f"{server.url}/chat/completions")
    assert found.status_code == 405 and "is not served" in found.json()["error"]["message"]


def test_huge_images_are_413_and_large_ones_are_not(client, folder):
    packed = f"data:image/png;base64,{base64.b64encode(bomb(30_000)).decode()}"
    for url in (image_url((1025, 1024)), packed):
        with pytest.raises(openai.APIStatusError) as error:
            ask(client, turn(url), max_tokens=2)
        assert error.value.status_code == 413 and error.value.code == "image_too_large"
        assert "this server takes 1,048,576 (--max-image-pixels)" in error.value.message
    assert ask(client, turn(image_url((1024, 1024), "JPEG")), max_tokens=2).usage.completion_tokens == 2
    is_alive(client, folder)


@pytest.fixture(scope="module")
def small(served):
    """A second server of the same weights: a token, small bodies, one request at a time."""
    settings = Settings(port=0, slots=1, queue=0, token="secret", body_mib=1, tokens=1 << 14)
    with Server(served, settings, listen(settings)) as running:
        yield running


def test_tokens(small, folder):
    messages = turn(data_url(folder / "0.png"))
    for key in ("wrong", "secre", "secret2"):
        with pytest.raises(openai.AuthenticationError, match="the token is wrong") as error:
            ask(client_of(small, api_key=key), messages)
        assert error.value.code == "invalid_api_key"
    bare = httpx.post(f"{small.url}/chat/completions", json={"model": NAME, "messages": messages})
    assert bare.status_code == 401 and bare.headers["www-authenticate"] == "Bearer"
    assert httpx.get(f"{small.url}/models", headers={"Authorization": "Basic secret"}).status_code == 401
    assert httpx.get(f"{small.url}/models", headers={"Authorization": b"Bearer \xfc"}).status_code == 401
    assert httpx.get(small.url.removesuffix("/v1") + "/health").status_code == 200
    is_alive(client_of(small, api_key="secret"), folder)


@pytest.mark.parametrize("mib", [1, 3, 20])
def test_large_bodies_are_413(small, folder, mib):
    own = client_of(small, api_key="secret")
    with pytest.raises(openai.APIStatusError) as error:
        ask(own, [{"role": "user", "content": "x" * (mib << 20)}])
    assert error.value.status_code == 413 and "larger than 1 MiB (--max-body-mib)" in error.value.message
    is_alive(own, folder)


def test_a_body_without_a_length_is_counted_too(small, folder):
    pieces = (b"x" * 65536 for _ in range(48))
    headers = {"Authorization": "Bearer secret"}
    found = httpx.post(f"{small.url}/completions", content=pieces, headers=headers)
    assert found.status_code == 413 and found.json()["error"]["code"] == "body_too_large"
    is_alive(client_of(small, api_key="secret"), folder)


def test_a_full_queue_is_429_and_the_client_s_retries_get_through(small, folder, endless):
    own = client_of(small, api_key="secret")
    stream = answered(own, folder, endless, stream=True, max_tokens=1 << 14)
    next(iter(stream))
    with pytest.raises(openai.RateLimitError, match="1 requests are in flight") as error:
        answered(own, folder, 1, max_tokens=2)
    assert error.value.response.headers["retry-after"] == "1" and error.value.code == "queue_full"
    threading.Timer(0.5, stream.close).start()
    patient = client_of(small, api_key="secret", max_retries=8)
    assert answered(patient, folder, 1, max_tokens=2).usage.completion_tokens == 2


def running_job(server):
    wait_for(lambda: server._scheduler.active == 1)
    (job,) = server._scheduler._jobs
    return job


def test_a_client_that_leaves_a_stream_frees_its_slots(server, client, folder, endless):
    """Long before the end of its answers."""
    stream = answered(client, folder, endless, stream=True, n=8, max_tokens=1 << 14)
    next(iter(stream))
    job, slots = running_job(server), server._scheduler._continuous._decoding.slots
    assert slots.free == []
    stream.close()
    wait_for(lambda: requests(server) == 0)
    assert all(len(request.tokens) < 1 << 13 for request in job.requests) and len(slots.free) == 8
    is_alive(client, folder)


def test_a_client_that_stops_waiting_frees_its_slots(server, client, folder, endless):
    impatient = client_of(server, timeout=0.5)
    with pytest.raises(openai.APITimeoutError):
        answered(impatient, folder, endless, n=2, max_tokens=1 << 14)
    wait_for(lambda: requests(server) == 0)
    is_alive(client, folder)


def test_a_client_that_leaves_in_the_middle_of_its_body(server, client, folder):
    where = urlsplit(server.url)
    for sent in (b"", b'{"model": "tiny", "mess', b"x" * (1 << 20)):
        with socket.create_connection((where.hostname, where.port)) as connection:
            head = "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 9999999\r\n\r\n"
            connection.sendall(head.encode() + sent)
    with socket.create_connection((where.hostname, where.port)) as connection:
        connection.sendall(b"\x16\x03\x01 not HTTP at all\r\n\r\n")
        assert b"400" in connection.recv(1000)
    is_alive(client, folder)


def test_a_fault_while_decoding_is_500_and_the_server_lives(server, client, folder, monkeypatch):
    scheduler = server._scheduler

    def fail():
        raise MemoryError("no memory")

    monkeypatch.setattr(scheduler._continuous, "step", fail)  # of the object that is replaced afterwards
    with pytest.raises(openai.InternalServerError, match="decoding failed \\(MemoryError\\)"):
        answered(client, folder, 0, max_tokens=3)
    is_alive(client, folder)
    monkeypatch.setattr("pivot_jax.serve.likelihood.likelihoods", lambda *_: 1 / 0)
    with pytest.raises(openai.InternalServerError, match="scoring failed \\(ZeroDivisionError\\)"):
        client.completions.create(model=NAME, prompt="x y", echo=True, logprobs=1, max_tokens=0)
    is_alive(client, folder)


def test_a_server_that_stops_says_so_to_those_that_wait(served, folder, endless):
    settings = Settings(port=0, slots=1, tokens=1 << 14)
    with Server(served, settings, listen(settings)) as running:
        own = client_of(running)
        stream = answered(own, folder, endless, stream=True, max_tokens=1 << 14)
        next(iter(stream))
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(answered, own, folder, 1, max_tokens=4)
            wait_for(lambda: requests(running) == 2)
            running.__exit__()
            with pytest.raises(openai.InternalServerError, match=ENDING) as error:
                waiting.result()
            assert error.value.status_code == 503
        with pytest.raises(openai.APIError, match=ENDING):
            list(stream)
    with pytest.raises(openai.APIConnectionError):
        own.models.list()
