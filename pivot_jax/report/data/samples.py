"""The rows that the page shows: some at random, the shortest, the longest, some truncated ones."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from pivot_jax.data.example import Example
from pivot_jax.data.processing.batch import CHOSEN, MISMATCHED, REJECTED, EncodedRow
from pivot_jax.data.processing.geometry import Geometry, ImageArrays, View
from pivot_jax.data.processing.images import load, size_of
from pivot_jax.data.processing.processor import Processor
from pivot_jax.data.sources.choose import permutation
from pivot_jax.errors import UserError
from pivot_jax.progress import progress
from pivot_jax.report.data.reading import Reading
from pivot_jax.report.data.tokens import Reader, differing
from pivot_jax.report.data_rows import DataRow, Shown, Stream
from pivot_jax.words import counted

EXTREME, TRUNCATED = 2, 3  # shown of the shortest, of the longest, and of the truncated rows
LARGEST, ORIGINAL = 448, 160  # pixels of a side on the page; of an original beside the model's view
ONE_IMAGE = np.iinfo(np.int32).max  # features of an image, where a row has only one
LONGEST_FIELD = 2_000  # characters
ANSWERS = {
    CHOSEN: "Chosen answer",
    REJECTED: "Rejected answer",
    MISMATCHED: "Answer to another prompt, for the estimate of the distance from the reference model",
}


def chosen(lengths: np.ndarray, truncated: np.ndarray, count: int, seed: int) -> dict[int, list[str]]:
    """Row number → why it is shown, in the order of the page."""
    order = permutation(len(lengths), seed)
    by_length = np.argsort(lengths, kind="stable")
    picked = {
        "sampled": order[:count],
        "longest": by_length[::-1][:EXTREME],
        "shortest": by_length[:EXTREME],
        "truncated": order[truncated[order]][:TRUNCATED],
    }
    out: dict[int, list[str]] = {}
    for why, rows in picked.items():
        for row in rows:
            out.setdefault(int(row), []).append(why)
    return out


def shown(reading: Reading, count: int, seed: int, read_by: Mapping[str, Sequence[str]]) -> list[DataRow]:
    """The rows of the page; ``read_by``: column of the data → what reads it."""
    table, geometry = reading.table, reading.processor.geometry
    reader = Reader(reading.processor.chat.tokenizer, geometry.features if geometry.arrays == 1 else ONE_IMAGE)
    picked = chosen(table.tokens, table.truncated, count, seed)
    out = []
    with progress("reading images", len(picked)) as advance:
        for number, why in picked.items():
            example, row = reading.rows.prompt(number)
            streams, answers = _streams(reader, row, reading.kind)
            out.append(
                DataRow(
                    title=example.id,
                    badges=tuple(dict.fromkeys([*why, *(["truncated"] if table.truncated[number] else [])])),
                    note=_note(reading, number),
                    images=tuple(_images(reading.processor, example)),
                    streams=streams,
                    answers=answers,
                    fields=_fields(example.extra, read_by) if reading.kind == "prompt" else (),
                )
            )
            advance()
    return out


def _note(reading: Reading, number: int) -> str:
    table = reading.table
    parts = [f"{table.files[number]}, row {table.numbers[number] + 1}", counted(int(table.tokens[number]), "token")]
    if reading.kind in ("sft", "preference", "unpaired"):
        parts.append(f"{table.targets[number]:,} scored")
    if table.image_tokens[number]:
        parts.append(f"{table.image_tokens[number]:,} of images")
    if table.whole_tokens[number] > table.tokens[number]:
        parts.append(f"{table.whole_tokens[number]:,} before truncation")
    return " · ".join(parts)


# ---- texts


def _streams(reader: Reader, row: EncodedRow, kind: str) -> tuple[tuple[Stream, ...], tuple[Stream, ...]]:
    """The streams of a row that are above each other, and the answers beside each other."""
    branches = np.unique(row.branches).tolist()
    of = {branch: np.flatnonzero(row.branches == branch) for branch in branches}
    title = {"prompt": "Prompt", "contrastive": "Caption", "sft": "Conversation"}.get(
        kind, "Prompt, shared by the answers"
    )
    above = (reader.stream(title, row, of[0]),) if 0 in of else ()
    answers = [branch for branch in branches if branch]
    changed: dict[int, np.ndarray] = {}
    if {CHOSEN, REJECTED} <= set(answers):
        pair = differing(row.tokens[of[CHOSEN]].tolist(), row.tokens[of[REJECTED]].tolist())
        changed = {CHOSEN: pair[0], REJECTED: pair[1]}
    own = tuple(reader.stream(_title(branch, 0 in of), row, of[branch], changed.get(branch)) for branch in answers)
    return above, own


def _title(branch: int, prompt: bool) -> str:
    if prompt:
        return ANSWERS[branch]
    return "With the row's image (chosen)" if branch == CHOSEN else "With the other image (rejected)"


def _fields(extra: Mapping[str, Any], read_by: Mapping[str, Sequence[str]]) -> tuple[tuple[str, str, str], ...]:
    """The fields of a prompt, those that a reward reads first."""
    names = sorted(extra, key=lambda name: (name not in read_by, name))
    return tuple((name, _value(extra[name]), ", ".join(read_by.get(name, ()))) for name in names)


def _value(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=_described)
    return text if len(text) <= LONGEST_FIELD else f"{text[:LONGEST_FIELD]} … ({len(text):,} characters)"


def _described(value: Any) -> Any:
    if isinstance(value, bytes):
        return f"<{len(value)} bytes>"
    return value.tolist() if isinstance(value, np.generic) else f"<{type(value).__name__}>"


# ---- images


def _images(processor: Processor, example: Example) -> list[Shown]:
    """Each image of a row, small as it is, and as the model sees it."""
    geometry, many = processor.geometry, len(example.images) > 1
    try:
        found = processor.read_images(example.images)
    except UserError as error:
        return [Shown(str(error), "training leaves out this row when it reads it")]
    out = []
    for index, reference in enumerate(example.images):
        height, width = size_of(reference)
        arrays = slice(index * geometry.arrays, (index + 1) * geometry.arrays)
        own = ImageArrays(found.pixels[arrays], None if found.positions is None else found.positions[arrays])
        name = f"image {index + 1}" if many else "original"
        if index >= len(example.images) - example.images_rejected:
            name += ", rejected side"
        original = load(reference)
        original.thumbnail((ORIGINAL, ORIGINAL))
        out.append(Shown(np.asarray(original), f"{name}: {width} × {height}"))
        for view in geometry.views(own, height, width):
            out.append(_view(view, geometry, reference))
    return out


def _view(view: View, geometry: Geometry, reference: Any) -> Shown:
    height, width = view.pixels.shape[:2]
    caption = f"model: {width} × {height}"
    if view.tile:
        caption += f", {width // view.tile} × {height // view.tile} tiles"
    elif geometry.arrays > 1:
        caption = f"model, overview: {width} × {height}"
    else:
        rows, columns = geometry.token_grid(reference)
        caption += f", {columns} × {rows} tokens" if rows > 1 else f", {columns} tokens"
    image = Image.fromarray(view.pixels)
    image.thumbnail((LARGEST, LARGEST))
    cell, tile = ((100 * side / width, 100 * side / height) if side else () for side in (view.cell, view.tile))
    return Shown(np.asarray(image), caption, cell, tile)
