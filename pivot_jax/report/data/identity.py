"""Which rows, prompts and images are the same: numbers of 64 bits, equal where the contents are."""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pivot_jax.data.example import Example
from pivot_jax.data.processing.images import Changed
from pivot_jax.progress import progress

_ODD = np.uint64(0x9E3779B97F4A7C15)  # any odd number of mixed bits
_CHUNK = 1 << 20  # bytes of a file that are read at a time


class TextKeys(NamedTuple):
    """Keys of a row's texts: all of them, its prompt, its answers."""

    whole: int
    prompt: int
    answer: int


def key(parts: Iterable[str | bytes]) -> int:
    """64 bits that depend on every part and on where one ends."""
    found = hashlib.blake2b(digest_size=8)
    for part in parts:
        data = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
        found.update(len(data).to_bytes(8, "little") + data)
    return int.from_bytes(found.digest(), "little")


def text_keys(example: Example) -> TextKeys:
    """Keys of an example's texts; the answer of a prompt is its field ``answer``."""
    messages, answers = example.messages, (example.chosen, example.rejected)
    if answers == (None, None):
        if messages and messages[-1].role == "assistant":
            messages, answers = messages[:-1], (messages[-1].content, None)
        elif (answer := example.extra.get("answer")) is not None:
            answers = str(answer), None
    prompt = [text for message in messages for text in (message.role, message.content)]
    own = ["-" if answer is None else f"+{answer}" for answer in answers]
    return TextKeys(key([*prompt, "", *own]), key(prompt), key(own))


def with_images(texts: np.ndarray, images: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Keys of texts, uint64 [rows], and of their images in order: uint64 [rows].

    ``images``, ``rows``: key and row number of every image, row by row.
    """
    position = np.arange(len(rows)) - np.searchsorted(rows, rows)  # of each image in its row
    out = texts.copy()
    np.add.at(out, rows, images * (_ODD * (2 * position.astype(np.uint64) + np.uint64(1))))
    return out


class ImageKeys:
    """Keys of images: of encoded bytes and arrays by their content, of files at first by their path."""

    def __init__(self) -> None:
        self._paths: dict[str, int] = {}

    def key(self, reference: Any) -> int:
        if isinstance(reference, Changed):
            return key(["changed", str(reference.change), str(self.key(reference.reference))])
        if isinstance(reference, (str, Path)):
            path = str(reference)
            return self._paths.setdefault(path, key(["path", path]))
        if isinstance(reference, (bytes, bytearray)):
            return key([bytes(reference)])
        pixels = np.asarray(reference)
        return key([str(pixels.shape), pixels.tobytes()])

    def by_content(self, keys: np.ndarray) -> np.ndarray:
        """The keys with one for all files of equal content. Only files of the same size are read."""
        sizes: dict[int, list[str]] = defaultdict(list)
        for path in self._paths:
            if (size := _size(path)) is not None:
                sizes[size].append(path)
        alike = [path for paths in sizes.values() if len(paths) > 1 for path in paths]
        first: dict[int, int] = {}  # content → key of the first file that has it
        same: dict[int, int] = {}
        with progress("comparing image files", len(alike), show=len(alike) > 1_000) as advance:
            for path in alike:
                advance()
                if (content := _content(path)) is not None:
                    own = self._paths[path]
                    same[own] = first.setdefault(content, own)
        old = np.asarray(sorted(same), np.uint64)
        if not len(old):
            return keys
        new = np.asarray([same[int(one)] for one in old], np.uint64)
        at = np.minimum(np.searchsorted(old, keys), len(old) - 1)
        return np.where(old[at] == keys, new[at], keys)


def _size(path: str) -> int | None:
    """Bytes of a regular file; None for anything else, from which nothing is read."""
    return os.stat(path).st_size if os.path.isfile(path) else None


def _content(path: str) -> int | None:
    found = hashlib.blake2b(digest_size=8)
    try:
        with open(path, "rb") as file:
            while data := file.read(_CHUNK):
                found.update(data)
    except OSError:
        return None
    return int.from_bytes(found.digest(), "little")


def groups(keys: np.ndarray) -> list[np.ndarray]:
    """Indices that share a key, two or more, in order; groups in the order of their first index."""
    order = np.argsort(keys, kind="stable")
    ends = np.flatnonzero(np.diff(keys[order])) + 1
    found = [group for group in np.split(order, ends) if len(group) > 1]
    return sorted(found, key=lambda group: int(group[0]))


def conflicts(prompts: np.ndarray, answers: np.ndarray) -> list[np.ndarray]:
    """As :func:`groups` of the prompts: those whose answers are not all the same."""
    return [group for group in groups(prompts) if len(np.unique(answers[group])) > 1]


def sharing(images: np.ndarray, rows: np.ndarray) -> list[np.ndarray]:
    """Rows that have an image in common, of each image that more than one row has; arguments as of `with_images`."""
    found = [np.unique(rows[group]) for group in groups(images)]
    return [group for group in found if len(group) > 1]


def alike(chosen: str, rejected: str) -> str:
    """ "same", "nearly" (apart from white space and letter case), or "" for two answers."""
    if chosen == rejected:
        return "same"
    one, other = (" ".join(text.split()).casefold() for text in (chosen, rejected))
    return "nearly" if one == other else ""
