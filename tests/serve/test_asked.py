"""Requests as JSON: what is taken from them, and the field that each bad one is blamed on."""

from __future__ import annotations

import base64
import io
import json

import numpy as np
import pytest
from PIL import Image

from pivot_jax.data.example import Message
from pivot_jax.serve import asked, fields, image_urls
from pivot_jax.serve.asked import Limits
from pivot_jax.serve.failure import Failure
from tests.serve.conftest import bomb

LIMITS = Limits(tokens=100, pixels=1000, images=2)
URL = "data:image/png;base64," + base64.b64encode(b"file").decode()
IMAGE = {"type": "image_url", "image_url": {"url": URL, "detail": "high"}}
USER = [{"role": "user", "content": "Q"}]


def text(content: str) -> dict:
    return {"type": "text", "text": content}


def chat(**body):
    return asked.chat({"model": "m", "messages": USER, **body}, "m", LIMITS)


def completion(**body):
    return asked.completion({"model": "m", "prompt": "P", **body}, "m", LIMITS)


def test_a_chat_with_every_field():
    found = chat(
        messages=[
            {"role": "developer", "content": "Be brief.", "name": "me"},
            {"role": "user", "content": [text("Compare "), IMAGE, text("and "), IMAGE]},
            {"role": "assistant", "content": "They are alike.", "refusal": None, "tool_calls": []},
            {"role": "user", "content": [text("Why?")]},
        ],
        max_tokens=7, max_completion_tokens=7, temperature=0.5, top_p=0, top_k=-1, min_p=0.1, stop="x", seed=-3, n=2,
        logprobs=True, top_logprobs=3, stream=True, stream_options={"include_usage": True}, presence_penalty=0.0,
        tools=[], response_format={"type": "text"}, user="somebody",
    )  # fmt: skip
    assert found.messages == (
        Message("system", "Be brief."),
        Message("user", "Compare <image>\nand <image>\n"),
        Message("assistant", "They are alike."),
        Message("user", "Why?"),
    )
    assert found.images == tuple((b"file", f"messages[1].content[{i}].image_url.url") for i in (1, 3))
    wanted, sampling = found.wanted, found.wanted.sampling
    assert (sampling.max_tokens, sampling.temperature, sampling.top_k, sampling.min_p) == (7, 0.5, 0, 0.1)
    assert 0 < sampling.top_p < 1e-3 and sampling.stop == ("x",) and not sampling.stop_ids
    assert (wanted.n, wanted.seed, wanted.top, wanted.stream, wanted.usage) == (2, -3, 3, True, True)


def test_defaults_are_those_of_the_api():
    """Temperature 1; a chat's limit is the server's, that of a completion 16; no log-probs."""
    wanted = chat().wanted
    assert (wanted.sampling.max_tokens, wanted.sampling.temperature, wanted.sampling.top_p) == (100, 1.0, 1.0)
    assert (wanted.n, wanted.seed, wanted.top, wanted.stream) == (1, None, None, False)
    found = completion(logprobs=0)
    assert (found.tokens, found.echo, found.wanted.top, found.prompts) == (16, False, 0, ("P",))
    assert chat(logprobs=True).wanted.top == 0 and chat(temperature=None, n=None).wanted.n == 1


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ([IMAGE, text("Q")], "<image>\nQ"),
        ([text("Q"), IMAGE], "<image>\nQ"),  # a single one goes first, as in training
        ([text("A "), IMAGE, IMAGE, text("B")], "A <image>\n<image>\nB"),
        ([IMAGE, text("Is <image> red?")], "<image>\nIs  red?"),
        ([IMAGE, IMAGE, text("<image> or <image>")], "<image> or <image>"),
    ],
)
def test_images_go_where_the_parts_say(parts, expected):
    assert chat(messages=[{"role": "user", "content": parts}]).messages[0].content == expected


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [("a", ("a",)), (["a", "b"], ("a", "b")), ([1, 2], ((1, 2),)), ([[1, 2], [3]], ((1, 2), (3,)))],
)
def test_prompts_are_texts_or_ids(prompt, expected):
    assert completion(prompt=prompt, max_tokens=0, echo=True, logprobs=1).prompts == expected


def part(**changes):
    return {"messages": [{"role": "user", "content": [changes]}]}


BAD_CHATS = {
    "model: missing": {"model": None},
    "model: a number, not a string": {"model": 3},
    "messages: missing": {"messages": None},
    "messages: not a list of at least one": {"messages": []},
    "messages[0]: not an object": {"messages": ["Q"]},
    "messages[0].role: 'tool' is not supported": {"messages": [{"role": "tool", "content": "x"}]},
    "messages[0].content: missing": {"messages": [{"role": "user"}]},
    "messages[0].content: not a text or a list of parts": {"messages": [{"role": "user", "content": {}}]},
    "messages[0].colour: an unknown field": {"messages": [{"role": "user", "content": "x", "colour": 1}]},
    "messages[0].tool_calls": {"messages": [{"role": "assistant", "content": "x", "tool_calls": [1]}]},
    "messages[0].content: an image in a turn of the system": {"messages": [{"role": "system", "content": [IMAGE]}]},
    "messages: the last turn is the assistant's": {"messages": [{"role": "assistant", "content": "x"}]},
    "messages: 3 images, and this model takes at most 2": {"messages": [{"role": "user", "content": [IMAGE] * 3}]},
    "messages[0].content: <image> is 1 times in the text, for 0 images": part(type="text", text="<image>"),
    "messages[0].content[0].type: 'input_audio' is not supported": part(type="input_audio"),
    "messages[0].content[0].text: missing": part(type="text"),
    "messages[0].content[0].image_url: no URL": part(type="image_url"),
    "messages[0].content[0].image_url.url: a URL of the kind 'https:'": part(
        type="image_url", image_url={"url": "https://example.org/x.png"}
    ),
    "fetches nothing, so send the image itself as data:image/png;base64": part(
        type="image_url", image_url="file:///etc/passwd"
    ),
    "messages[0].content[0].image_url.url: not a URL": part(type="image_url", image_url={"url": "/etc/passwd"}),
    "not marked as base64": part(type="image_url", image_url={"url": "data:image/png,abc"}),
    "not base64": part(type="image_url", image_url={"url": "data:image/png;base64,@@@"}),
    "max_tokens: 0 is not a whole number from 1 to 100": {"max_tokens": 0},
    "max_tokens: 101 is not": {"max_tokens": 101},
    "max_tokens: true is not": {"max_tokens": True},
    "max_completion_tokens: 5, but max_tokens is 4": {"max_tokens": 4, "max_completion_tokens": 5},
    "temperature: \"hot\" is not a number from 0 to 2": {"temperature": "hot"},
    "top_p: 1.5 is not": {"top_p": 1.5},
    "n: 0 is not": {"n": 0},
    "seed: 1.5 is not": {"seed": 1.5},
    "logprobs: a number, not true or false": {"logprobs": 1},
    "top_logprobs: 21 is not": {"logprobs": True, "top_logprobs": 21},
    "top_logprobs: 2 without logprobs": {"top_logprobs": 2},
    "stop: not a string": {"stop": [1]},
    "stop: not a string or a list of strings that are not empty": {"stop": [""]},
    "stop: 17 strings": {"stop": ["x"] * 17},
    "stream_options: given without stream": {"stream_options": {"include_usage": True}},
    "stream_options.usage: an unknown field": {"stream": True, "stream_options": {"usage": True}},
    "presence_penalty: 0.5 is not supported (only 0 is": {"presence_penalty": 0.5},
    "tools: [{\"type\": \"function\"}] is not supported": {"tools": [{"type": "function"}]},
    "response_format": {"response_format": {"type": "json_object"}},
    "max_token: an unknown field; did you mean 'max_tokens'?": {"max_token": 3},
}  # fmt: skip
BAD_COMPLETIONS = {
    "prompt: not a text": {"prompt": None},
    "prompt: not a text, token ids": {"prompt": [[1, "a"]]},
    "prompt: empty": {"prompt": ""},
    "prompt: 65 prompts with n = 2 are more than 128 answers": {"prompt": ["x"] * 65, "n": 2},
    "logprobs: true is not": {"logprobs": True},
    "echo: not supported together with stream": {"echo": True, "stream": True},
    "best_of: 5 is not supported": {"best_of": 5},
    "suffix: \"x\" is not supported": {"suffix": "x"},
}  # fmt: skip


@pytest.mark.parametrize("message", BAD_CHATS)
def test_a_bad_chat_names_its_field(message):
    with pytest.raises(Failure) as found:
        chat(**BAD_CHATS[message])
    assert found.value.status == 400 and message in found.value.message
    assert found.value.param and found.value.message.startswith(f"{found.value.param}: ")


@pytest.mark.parametrize("message", BAD_COMPLETIONS)
def test_a_bad_completion_names_its_field(message):
    with pytest.raises(Failure) as found:
        completion(**BAD_COMPLETIONS[message])
    assert found.value.status == 400 and message in found.value.message and found.value.param


def test_another_model_is_not_found():
    with pytest.raises(Failure, match="model: 'gpt-4o' is unknown; this server has 'm'") as found:
        chat(model="gpt-4o")
    assert (found.value.status, found.value.code) == (404, "model_not_found")
    assert found.value.body["error"]["type"] == "not_found_error"


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"{", "not JSON"),
        (b"[1]", "a list, not a JSON object"),
        (b'{"temperature": NaN}', "NaN is no JSON number"),
        (b"\xff{}", "not JSON"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"stop": "\\ud83d"}', "half of a character"),
    ],
)
def test_a_body_that_is_no_json_object(body, says):
    with pytest.raises(Failure, match=says) as found:
        fields.parse(body)
    assert found.value.status == 400


def encoded(size: tuple[int, int], kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, (200, 10, 10)).save(file, kind)
    return file.getvalue()


def test_images_are_decoded_up_to_the_limit():
    for kind in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"):
        found = image_urls.decoded(encoded((40, 25), kind), 1000, "p")
        assert found.size == (40, 25) and found.mode == "RGB"
        assert np.abs(np.asarray(found).astype(int) - (200, 10, 10)).max() < 12
    with pytest.raises(Failure, match=r"p: the image is too large: it has 40 x 26 pixels, and this server takes 1,000"):
        image_urls.decoded(encoded((40, 26)), 1000, "p")


@pytest.mark.parametrize("side", [9_000, 20_000])
def test_a_bomb_is_refused_by_its_header(side):
    """Of the first Pillow would only warn, the second it would refuse itself; the small one is a good image."""
    assert image_urls.decoded(bomb(100), 10_000, "p").size == (100, 100)
    with pytest.raises(Failure, match="p: the image is too large") as found:
        image_urls.decoded(bomb(side), 1 << 25, "p")
    assert found.value.status == 413 and found.value.code == "image_too_large"


@pytest.mark.parametrize(
    "content", [b"", b"hello", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", encoded((30, 30))[:-30]]
)
def test_what_is_no_image_is_the_client_s_fault(content):
    with pytest.raises(Failure, match="^p: ") as found:
        image_urls.decoded(content, 1000, "p")
    assert found.value.status == 400


def test_a_failure_is_openai_s_error_object():
    found = Failure(429, "later", code="queue_full")
    body = {"message": "later", "type": "rate_limit_error", "param": None, "code": "queue_full"}
    assert json.loads(json.dumps(found.body)) == {"error": body} and found.headers == {"Retry-After": "1"}
