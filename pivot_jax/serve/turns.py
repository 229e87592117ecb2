"""The turns of a chat request: OpenAI's messages with their parts, as messages with image placeholders."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pivot_jax.data.example import Message
from pivot_jax.data.sources.base import IMAGE, front_image
from pivot_jax.serve import image_urls
from pivot_jax.serve.failure import bad
from pivot_jax.serve.fields import Fields
from pivot_jax.words import counted

ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}


def turns(value: Any, most_images: int) -> tuple[tuple[Message, ...], tuple[tuple[bytes, str], ...]]:
    """``messages`` as turns with ``<image>`` where images go, and the encoded images with the names of their fields.

    Raises:
      Failure: 400, something that is not in OpenAI's form or not supported, more images than the model takes, or a
        conversation that does not end with a user's turn.
    """
    if not isinstance(value, list) or not value:
        raise bad("messages", "missing" if value is None else "not a list of at least one message")
    messages, urls = [], list[tuple[str, str]]()
    for index, turn in enumerate(value):
        where = f"messages[{index}]"
        if not isinstance(turn, dict):
            raise bad(where, "not an object with role and content")
        fields = Fields(turn, f"{where}.")
        role = fields.text("role")
        if role not in ROLES:
            raise bad(f"{where}.role", f"{role!r} is not supported; there are {', '.join(ROLES)}")
        text, own = _content(fields.take("content"), f"{where}.content")
        fields.take("name")
        fields.neutral({"refusal": (), "tool_calls": ([],), "function_call": (), "audio": (), "annotations": ([],)})
        fields.end()
        if own and ROLES[role] != "user":
            raise bad(f"{where}.content", f"an image in a turn of the {role}; only users' turns may have some")
        messages.append(Message(ROLES[role], text))
        urls += own
    if messages[-1].role != "user":
        raise bad("messages", f"the last turn is the {value[-1]['role']}'s; it has to be a user's")
    if len(urls) > most_images:
        most = f"at most {most_images} in a row (data.images_per_row)" if most_images else "none"
        raise bad("messages", f"{counted(len(urls), 'image')}, and this model takes {most}")
    return tuple(messages), tuple((image_urls.encoded(url, param), param) for url, param in urls)


def _content(value: Any, where: str) -> tuple[str, list[tuple[str, str]]]:
    """Text with ``<image>`` where images go, and the images' URLs with the names of their fields.

    A single image is put before its turn's text, several stay where they are, as in training on LLaVA's rows.
    """
    if isinstance(value, str):
        parts: Sequence[Any] = [{"type": "text", "text": value}]
    elif isinstance(value, list) and value:
        parts = value
    else:
        raise bad(where, "missing" if value is None else "not a text or a list of parts")
    texts, urls = [], list[tuple[str, str]]()
    for index, part in enumerate(parts):
        name = f"{where}[{index}]" if parts is value else where
        found, url = _part(part, name)
        texts.append(found)
        urls += url
    marks = sum(text.count(IMAGE) for text in texts if text is not None)
    if marks and marks != len(urls):
        images = counted(len(urls), "image")
        raise bad(where, f"{IMAGE} is {marks} times in the text, for {images}; give each image one, or leave it out")
    own = "" if marks else f"{IMAGE}\n"
    return front_image("".join(own if text is None else text for text in texts)), urls


def _part(part: Any, where: str) -> tuple[str | None, list[tuple[str, str]]]:
    """A part's text, or None and the URL of an image."""
    if not isinstance(part, dict):
        raise bad(where, "not an object with a type")
    fields = Fields(part, f"{where}.")
    kind = fields.text("type")
    if kind == "text":
        text = fields.text("text")
        if text is None:
            raise bad(f"{where}.text", "missing")
        found: tuple[str | None, list[tuple[str, str]]] = (text, [])
    elif kind == "image_url":
        image = fields.take("image_url")
        url = Fields(image, f"{where}.image_url.") if isinstance(image, dict) else None
        address = image if isinstance(image, str) else url and url.text("url")
        if url is not None:
            url.take("detail")  # images are prepared as the model was trained
            url.end()
        if not address:
            raise bad(f"{where}.image_url", 'no URL; write {"url": "data:image/png;base64,…"}')
        found = None, [(address, f"{where}.image_url.url")]
    else:
        raise bad(f"{where}.type", f"{kind!r} is not supported; there are text and image_url")
    fields.end()
    return found
