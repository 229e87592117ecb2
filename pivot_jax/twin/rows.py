"""Rows of a run, in the order in which its steps read them, as TRL's data sets have them."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pivot_jax import files
from pivot_jax.data.example import Example, Message
from pivot_jax.data.sources.base import IMAGE
from pivot_jax.errors import UserError
from pivot_jax.progress import progress

Block = dict[str, str]
FILE = "rows.jsonl"
COLUMNS = "columns"  # of a prompt's row


def order(loader: Any, updates: int) -> Iterator[int]:
    """Numbers of the rows (or prompts) of all steps, in order; ``updates``: optimizer steps for each batch read."""
    for batch in range(-(-loader.total_steps // updates)):
        if loader.rows:
            yield from map(int, loader.schedule.batch(batch))
        else:  # prompts without an end
            yield from range(batch * loader.batch_size, (batch + 1) * loader.batch_size)


def write(folder: Path, loader: Any, row: Callable[[Example], dict[str, Any]], updates: int = 1) -> None:
    """``rows.jsonl``: ``row`` of each example in the order of the steps; ``updates`` as in :func:`order`."""
    numbers = list(order(loader, updates))
    with files.whole(folder / FILE) as path, path.open("w") as file, progress("rows", len(numbers)) as advance:
        for number in numbers:
            found = row(loader.data.example(number))
            file.write(json.dumps(found, ensure_ascii=False, default=_plain) + "\n")
            advance(1)


class Images:
    """Names of a row's images for ``rows.jsonl``: paths of files, or of PNG copies below ``images/``."""

    def __init__(self, folder: Path):
        self._folder = folder

    def names(self, images: Sequence[Any]) -> list[str]:
        return [str(Path(one).absolute()) if isinstance(one, (str, Path)) else self._copy(one) for one in images]

    def _copy(self, image: Any) -> str:
        opened = Image.open(io.BytesIO(image)) if isinstance(image, bytes) else Image.fromarray(np.asarray(image))
        data = io.BytesIO()
        opened.convert("RGB").save(data, "PNG")
        name = f"images/{hashlib.sha256(data.getvalue()).hexdigest()[:16]}.png"
        path = self._folder / name
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(data.getvalue())
        return name


def row(example: Example, kind: str, images: Images) -> dict[str, Any]:
    """An example in TRL's conversational form: ``messages``, or ``prompt`` with ``chosen`` and ``rejected``.

    Contents are lists of ``image`` and ``text`` items, so that an image stays where the row has it. A preference row
    of an SFT run is its prompt with the chosen answer, as in :meth:`Chat.encode`. A prompt of online RL keeps the
    extra fields, which rewards read, as JSON: TRL gives some of their names a meaning of its own.

    Raises:
      UserError: a visual pair of a preference run.
    """
    shown = example.images
    if example.images_rejected:
        if kind == "preference":
            raise UserError(
                f"row '{example.id}': a visual pair (image_rejected) has no twin: TRL compares answers alone"
            )
        shown = shown[: -example.images_rejected]
    found: dict[str, Any] = {"images": images.names(shown)}
    messages = [_message(one) for one in example.messages]
    if kind == "preference":
        pair = {"chosen": example.chosen, "rejected": example.rejected}
        return found | {"prompt": messages} | {name: [_answer(text or "")] for name, text in pair.items()}
    if kind == "policy":
        asked = messages[:-1] if example.messages[-1].role == "assistant" else messages
        return found | {"prompt": asked, COLUMNS: json.dumps(example.extra, ensure_ascii=False, default=_plain)}
    chosen = [] if example.chosen is None else [_answer(example.chosen)]
    return found | {"messages": messages + chosen}


def _message(message: Message) -> dict[str, Any]:
    return {"role": message.role, "content": list(_blocks(message.content))}


def _answer(text: str) -> dict[str, Any]:
    return _message(Message("assistant", text))


def _blocks(text: str) -> Iterator[Block]:
    first, *rest = text.split(IMAGE)
    if first or not rest:
        yield {"type": "text", "text": first}
    for part in rest:
        yield {"type": "image"}
        if part:
            yield {"type": "text", "text": part}


def _plain(value: Any) -> Any:
    """A value of NumPy as JSON has it."""
    return value.tolist() if isinstance(value, (np.ndarray, np.generic)) else str(value)
