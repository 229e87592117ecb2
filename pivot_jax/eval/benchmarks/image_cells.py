"""Image cells of a benchmark's published rows, in the forms that they are published in."""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Mapping
from typing import Any

from PIL import Image, UnidentifiedImageError

from pivot_jax.data.sources.base import ImageRoot, rooted
from pivot_jax.data.sources.rows import Rows
from pivot_jax.errors import RowError, UserError
from pivot_jax.eval.benchmarks.cells import is_missing, literal_list, row_name, shown

REFERENCE = 64  # characters: VLMEvalKit takes an image cell that is not longer for the index of another row


def images(value: Any, row_id: str, root: ImageRoot | None = None, column: str = "image") -> tuple[Any, ...]:
    """The images of a cell, as bytes or paths; () where it is empty.

    Args:
      value: ``datasets.Image`` ``{"bytes", "path"}``, bytes, base64 (also after ``data:image/…;base64,``), a list of
        these, or a list of base64 written as JSON or as a Python literal.
      root: folder of paths. A text with a dot is a path (base64 has none); None: the rows hold their images.

    Raises:
      RowError: anything else, base64 that is not an image, or a path that is outside the root.
    """
    if is_missing(value):
        return ()
    if isinstance(value, str) and (listed := literal_list(value)) is not None:
        value = listed
    if isinstance(value, list | tuple):
        return tuple(_image(one, row_id, root, f"{column}[{i}]") for i, one in enumerate(value))
    return (_image(value, row_id, root, column),)


def _image(value: Any, row_id: str, root: ImageRoot | None, column: str) -> Any:
    if isinstance(value, Mapping):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, bytes) and value:
        return value
    if not isinstance(value, str) or not value.strip():
        raise RowError(row_id, f"column '{column}' holds {shown(value)}; an image is bytes, base64 or a path")
    if value.startswith("data:"):
        return _decoded(value.partition(",")[2], row_id, column)
    if "." not in value:
        return _decoded(value, row_id, column)
    if root is None:
        raise RowError(
            row_id, f"column '{column}' is the path {shown(value)}, and no folder of images is known; name it"
        )
    return rooted(value, root, row_id)[0]


def _decoded(text: str, row_id: str, column: str) -> bytes:
    """Bytes of an image in base64. Only its head is read here: enough to tell an image from other text."""
    try:
        content = base64.b64decode("".join(text.split()), validate=True)
    except ValueError as error:
        raise RowError(
            row_id, f"column '{column}' is {shown(text)}, which is not base64 ({error}); get the file again"
        ) from None
    try:
        Image.open(io.BytesIO(content)).close()
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError):
        raise RowError(
            row_id, f"column '{column}' is {shown(text)}, base64 of something that is not an image; get the file again"
        ) from None
    return content


def images_key(found: tuple[Any, ...]) -> str:
    """A key of images: the same for the same files, or the same encoded bytes."""
    parts = [image if isinstance(image, bytes) else str(image).encode() for image in found]
    return hashlib.blake2b(b"\n".join(parts), digest_size=8).hexdigest()


class TsvImages:
    """Images of the rows of a VLMEvalKit TSV, where rows with the same image hold it once.

    A cell of at most 64 characters is the index of the row that holds the image. Where there is no column ``image``,
    ``image_path`` names files.

    Args:
      ids: index → position (:func:`cells.unique_ids`).
      root: folder of ``image_path``.

    Raises:
      UserError: the rows have neither column.
    """

    def __init__(self, rows: Rows, ids: Mapping[str, int], root: ImageRoot | None = None, column: str = "image"):
        self.rows, self.ids, self.root, self.column = rows, ids, root, column
        first = rows[0] if len(rows) else {column: None}
        if column not in first and "image_path" not in first:
            raise UserError(
                f"{rows.name}: no column '{column}' and no 'image_path' (columns: {', '.join(first)}); name the file "
                "that has the images"
            )

    def of(self, row: Mapping[str, Any], position: int) -> tuple[Any, ...]:
        """The images of a row; () where it has none. Raises RowError as :func:`images`, and for a wrong reference."""
        where = row_name(row, self.rows, position)
        if self.column not in row:
            return images(row.get("image_path"), where, self.root, "image_path")
        cell = row[self.column]
        if is_missing(cell) or not isinstance(cell, str | int) or len(str(cell)) > REFERENCE:
            return images(cell, where, self.root, self.column)
        said = f"column '{self.column}' is '{cell}', at most {REFERENCE} characters, so the index of another row"
        if (other := self.ids.get(str(cell))) is None:
            raise RowError(where, f"{said}, and there is no such row; get the file again")
        target = self.rows[other].get(self.column)
        if is_missing(target) or len(str(target)) <= REFERENCE:
            raise RowError(
                where, f"{said}, but row '{self.rows.location(other)}' holds no image itself; name the row that does"
            )
        return images(target, row_name(self.rows[other], self.rows, other), self.root, self.column)
