"""A tiny model behind a live server, for the whole session: answers that differ by image, from random weights."""

from __future__ import annotations

import base64
import dataclasses
import struct
import zlib
from pathlib import Path

import httpx
import jax
import openai
import pytest

from pivot_jax.data.example import Example, Message
from pivot_jax.rollout.engine import Prompt, Sampling
from pivot_jax.rollout.sampler import Sampler, Shape
from pivot_jax.serve.model import served_of
from pivot_jax.serve.server import Server, Settings, listen
from pivot_jax.train.open import open_run
from tests.tiny import commands, mllm, runs

NAME, QUESTION = "tiny", "Which colour is it?"


@pytest.fixture(scope="session")
def folder() -> Path:
    """The world of the commands; read only."""
    return runs.once("commands", commands.draw)


def opened(folder: Path):
    """The run's model with random weights of a gain at which its answers differ."""
    run = open_run(folder / "run")
    return dataclasses.replace(run, params=jax.device_put(mllm.random_params(run.mllm, gain=2.0)))


@pytest.fixture(scope="session")
def model(folder):
    """The open model, whose parameters the server does not share."""
    return opened(folder)


@pytest.fixture(scope="session")
def served(folder):
    return served_of(opened(folder), NAME)


@pytest.fixture(scope="session")
def server(served):
    settings = Settings(port=0, slots=8, tokens=1 << 14, image_pixels=1 << 20)
    with Server(served, settings, listen(settings)) as running:
        yield running


def data_url(path: Path) -> str:
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"


def turn(*images: str, text: str = QUESTION) -> list[dict]:
    """The messages of a question about images."""
    parts = [{"type": "image_url", "image_url": {"url": url}} for url in images]
    return [{"role": "user", "content": [*parts, {"type": "text", "text": text}]}]


def example(folder: Path, index: int, text: str = QUESTION) -> Example:
    """The same for the processor."""
    return Example(str(index), (Message("user", f"<image>\n{text}"),), (str(folder / f"{index}.png"),))


def bomb(side: int) -> bytes:
    """A black PNG of one bit a pixel, made without its pixels: a small file of an image that fills a memory in RGB."""
    row, packer = b"\0" * (1 + -(-side // 8)), zlib.compressobj(1)
    packed = b"".join([packer.compress(row) for _ in range(side)] + [packer.flush()])
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)), (b"IDAT", packed), (b"IEND", b"")]
    parts = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def client_of(server, **options) -> openai.OpenAI:
    return openai.OpenAI(base_url=server.url, **({"api_key": "none", "max_retries": 0, "timeout": 300} | options))


@pytest.fixture(scope="session")
def client(server):
    return client_of(server)


@pytest.fixture(scope="session")
def sampler(model):
    """What the server should give, from the sampler itself."""
    made = Sampler(model.mllm, model.processor, Shape(8, 4, 16))
    made.update(model.params, 0)
    return made


@pytest.fixture(scope="session")
def endless(model, sampler, folder):
    """An image whose greedy answer has no end token, so that it takes as long as its limit says."""
    sampling = Sampling(600, temperature=0.0, stop_ids=(model.processor.chat.end_id,))
    return next(i for i in range(12) if sampled(sampler, model, folder, i, 1, sampling)[1][0].finish == "length")


def ask(client, messages, **options):
    return client.chat.completions.create(model=NAME, messages=messages, **options)


def answered(client, folder, index, text=QUESTION, **options):
    return ask(client, turn(data_url(folder / f"{index}.png"), text=text), **{"temperature": 0, **options})


def sampled(sampler, model, folder, index, n, sampling, seed=0):
    """The prompt and its responses."""
    prompt = Prompt(example(folder, index), model.processor.encode(example(folder, index)), seed)
    return prompt, sampler.generate([prompt], n, sampling, (0, 0)).responses[0]


def requests(server) -> int:
    return httpx.get(server.url.removesuffix("/v1") + "/health").json()["requests"]
