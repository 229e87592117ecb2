"""Images of a probe: prepared for an encoder when they are read, and known by their content."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pivot_jax import files
from pivot_jax.data.processing.geometry import Geometry, ImageArrays
from pivot_jax.data.processing.images import load
from pivot_jax.errors import UserError


@dataclass(frozen=True)
class Change:
    """A change of an image before it is prepared; ``name`` says all that it depends on."""

    name: str
    apply: Callable[[Image.Image], Image.Image]


def central_square(image: Image.Image) -> Image.Image:
    """The largest square in the middle (patch-seg's crop)."""
    side = min(image.size)
    left, top = ((full - side) // 2 for full in image.size)
    return image.crop((left, top, left + side, top + side))


CENTRAL_SQUARE = Change("central_square", central_square)


class ImageSet:
    """Images by index, as the arrays that an encoder takes (``features.Images``).

    Args:
      references: paths, encoded bytes, uint8 arrays [h, w, 3] or PIL images, each prepared as the encoder was trained.
        An array uint8 [n, size, size, 3] of an encoder of squares is taken as it is: prepared already.
      geometry: of the encoder.
      fingerprint: what identifies the references without reading them; "" where that is not known.
      change: of every image, before it is prepared.

    Raises:
      UserError: an encoder that reads tiles.
    """

    def __init__(
        self,
        references: Sequence[Any] | np.ndarray,
        geometry: Geometry,
        fingerprint: str = "",
        change: Change | None = None,
    ):
        if geometry.arrays > 1:
            raise UserError(
                "probes need one grid of features for an image, and this model reads it in tiles; write its encoder "
                "alone with `pivot-jax export-hf --what encoder` and probe that"
            )
        self.references, self.geometry = references, geometry
        self.fingerprint, self.change = fingerprint, change
        whole = (geometry.size, geometry.size, 3)
        self._prepared = isinstance(references, np.ndarray) and geometry.fixed and references.shape[1:] == whole

    def __len__(self) -> int:
        return len(self.references)

    def __getitem__(self, index: int) -> ImageArrays:
        if self._prepared and self.change is None:
            return ImageArrays(np.asarray(self.references[index])[None])
        image = load(self.references[index])
        return self.geometry.convert(self.change.apply(image) if self.change else image, True)

    def content(self, memo: Path | None = None) -> str:
        """Hash of what the images are, whatever their files are called.

        Args:
          memo: folder that keeps the hash of a set of files by their paths, sizes and times, so that a large set is
            read for it once.
        """
        quick = self.fingerprint or _stamps(self.references)
        note = memo / f"{hashlib.sha256(quick.encode()).hexdigest()[:32]}.txt" if memo and quick else None
        if note and note.is_file() and len(known := note.read_text().strip()) == 64:
            return known
        whole = hashlib.sha256(b"prepared" if self._prepared else b"")
        for index in range(len(self.references)):
            whole.update(_digest(self.references[index]))
        if note:
            files.write_text(note, whole.hexdigest())
        return whole.hexdigest()


def _stamps(references: Any) -> str:
    """Paths, sizes and times; "" where the references are not all files."""
    if isinstance(references, np.ndarray) or not all(isinstance(one, (str, Path)) for one in references):
        return ""
    try:
        stamps = [(Path(one).resolve(), os.stat(one)) for one in references]
    except OSError:
        return ""  # reading the file gives the error that names it
    return "\n".join(f"{path}|{stat.st_size}|{stat.st_mtime_ns}" for path, stat in stamps)


def _digest(reference: Any) -> bytes:
    if isinstance(reference, dict):  # datasets.Image
        reference = reference.get("bytes") or reference.get("path")
    if isinstance(reference, (str, Path)):
        try:
            return hashlib.sha256(Path(reference).read_bytes()).digest()
        except OSError as error:
            raise UserError(f"image {reference} cannot be read ({error.strerror})") from None
    if isinstance(reference, (bytes, bytearray)):
        return hashlib.sha256(reference).digest()
    if isinstance(reference, Image.Image):
        return hashlib.sha256(f"{reference.mode}{reference.size}".encode() + reference.tobytes()).digest()
    array = np.ascontiguousarray(reference)
    return hashlib.sha256(f"{array.dtype}{array.shape}".encode() + array.tobytes()).digest()
