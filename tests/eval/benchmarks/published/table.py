"""What a published table is: rows, the types of their columns, and the file that the hub holds them in."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from typing import Any

import datasets
from PIL import Image

Row = dict[str, Any]


@dataclass(frozen=True)
class Table:
    """One parquet file of a data set on the hub."""

    path: str  # CONFIG/SPLIT-00000-of-00001.parquet, or data/…, as on the hub
    columns: dict[str, Any]  # a type name of ``datasets.Value``, "image", or a list or dict of these
    rows: list[Row]

    @property
    def features(self) -> datasets.Features:
        return datasets.Features({name: _feature(kind) for name, kind in self.columns.items()})


def _feature(kind: Any) -> Any:
    if kind == "image":
        return datasets.Image()
    if isinstance(kind, list):
        return datasets.List(_feature(kind[0]))
    if isinstance(kind, dict):
        return {name: _feature(inner) for name, inner in kind.items()}
    return datasets.Value(kind)


def png(number: int) -> bytes:
    """A 32 × 24 image whose colours tell its number, as PNG."""
    drawn = Image.new("RGB", (32, 24), (40 * number % 256, 255 - 25 * number % 256, 90))
    drawn.putpixel((number % 32, 3), (255, 255, 255))
    buffer = io.BytesIO()
    drawn.save(buffer, "PNG")
    return buffer.getvalue()


def image(number: int) -> dict[str, Any]:
    """The cell of an Image column."""
    return {"bytes": png(number), "path": f"{number}.png"}


def base64_image(number: int) -> str:
    """The cell of a TSV's image column."""
    return base64.b64encode(png(number)).decode()
