"""Features that are computed once: every probe of the same features of the same images reads them from a folder.

An entry's name is a hash of everything that the numbers depend on: the weights that are read and the encoder's
configuration, how images are prepared, which features (:class:`FeatureSettings`), the content of the images, the kind
of processor. So two runs that share a frozen encoder share its features, and a changed image or weight makes another
entry. Entries may be deleted at any time; this module deletes none. Letters: n images, p features of an image, d width.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from pivot_jax import files
from pivot_jax.data.processing.images import preset_of
from pivot_jax.probe import features
from pivot_jax.probe.feature_settings import HEADS, FeatureSettings, encode_of
from pivot_jax.probe.image_sets import ImageSet
from pivot_jax.train.open import OpenEncoder, OpenModel
from pivot_jax.train.reference import weights_hash

log = logging.getLogger(__name__)
LAYOUT = 1  # of an entry and of the hash; an entry of another layout has another name
BATCH, BATCH_TOKENS = 64, 1 << 15  # images, and features, that are computed at once
SAME_NUMBERS = ("remat", "scan_layers", "max_patches", "min_pixels", "max_pixels", "preset")  # keys of an encoder


@dataclass(frozen=True)
class ImageFeatures:
    """Features of n images.

    Attributes:
      values: float32 [n, d], or [n, p, d] per patch with zeros at padding; from the cache, an array on disk.
      positions: int32 [n, p, 2], (row, column) of each patch in its image's grid, -1 at padding; None where every image
        has the same square grid, row by row, or where features are of whole images.
    """

    values: np.ndarray
    positions: np.ndarray | None = None


def read_features(
    encoder: OpenEncoder | OpenModel,
    images: ImageSet,
    settings: FeatureSettings,
    cache: str | Path | None = None,
    *,
    label: str = "features",
    show: bool = True,
) -> ImageFeatures:
    """Features of the images, from the folder ``cache`` if they are there; else computed, and kept in it.

    Raises:
      UserError: images that cannot be read, features that this encoder does not have, or a folder that cannot be
        written.
    """
    if cache is None:
        return _computed(encoder, images, settings, label, show, None)
    folder = Path(cache)
    about = _identity(encoder, images, settings, folder)
    name = hashlib.sha256(json.dumps(about, sort_keys=True, default=str).encode()).hexdigest()[:32]
    path = folder / f"{name}.npy"
    found = _stored(path, len(images))
    if found is not None:
        log.info("%s: taken from %s", label, path)
        return found
    with files.whole(path) as partial:
        made = _computed(encoder, images, settings, label, show, partial)
        if made.positions is not None:
            with files.whole(_positions(path)) as beside:
                np.save(beside, made.positions)
        files.write_text(path.with_suffix(".json"), json.dumps(about | {"encoder": encoder.name}, indent=1) + "\n")
    return ImageFeatures(np.load(path, mmap_mode="r"), made.positions)


def _computed(
    encoder: Any, images: ImageSet, settings: FeatureSettings, label: str, show: bool, path: Path | None
) -> ImageFeatures:
    encode, pool = encode_of(encoder.module, settings, encoder.name)
    size = max(1, min(BATCH, BATCH_TOKENS // images.geometry.features))
    values, positions = features.extract_on_grids(
        encode, encoder.params, images, batch_size=size, pool=pool, label=label, show=show, allocate=_on_disk(path)
    )
    return ImageFeatures(values, positions)


def _on_disk(path: Path | None) -> Callable[[tuple[int, ...]], np.ndarray] | None:
    """Makes an array in the file ``path``, whose space on the disk is reserved at once: a full one is an error here."""
    if path is None:
        return None

    def allocate(shape: tuple[int, ...]) -> np.ndarray:
        array = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)
        with open(path, "r+b") as file:
            os.posix_fallocate(file.fileno(), 0, os.fstat(file.fileno()).st_size)
        return array

    return allocate


def _positions(path: Path) -> Path:
    return path.with_name(f"{path.stem}.positions.npy")


def _stored(path: Path, count: int) -> ImageFeatures | None:
    """An entry of ``count`` images; None where there is none, or a damaged one."""
    try:
        values = np.load(path, mmap_mode="r")
        beside = _positions(path)
        positions = np.load(beside) if beside.is_file() else None
        if len(values) != count or (positions is not None and positions.shape[:2] != values.shape[:2]):
            raise ValueError("it is of other images")
    except FileNotFoundError:
        return None
    except (OSError, EOFError, ValueError) as error:
        log.warning("%s is damaged (%s); it is made again", path, error)
        return None
    return ImageFeatures(values, positions)


def _identity(encoder: Any, images: ImageSet, settings: FeatureSettings, folder: Path) -> dict[str, Any]:
    """Everything that the features depend on, as JSON."""
    geometry: Any = images.geometry
    return {
        "layout": LAYOUT,
        "weights": weights_hash(_read_parts(encoder.params, settings)),
        "model": _configuration(encoder.module.config, settings),
        "images": images.content(folder / "sets"),
        "count": len(images),
        "change": images.change.name if images.change else "",
        "geometry": [type(geometry).__name__, dataclasses.asdict(geometry), str(preset_of(geometry.preset))],
        "features": dataclasses.asdict(settings),
        "processor": jax.default_backend(),
    }


def _read_parts(params: dict[str, Any], settings: FeatureSettings) -> dict[str, Any]:
    """The parameters that the features are computed from."""
    vision = params["vision"]
    if settings.pool not in HEADS:
        vision = {name: part for name, part in vision.items() if name != "final"}
    names = ("second", "projector") if settings.where == "projector" else ("second",)
    return {"vision": vision} | {name: params[name] for name in names if name in params}


def _configuration(config: Any, settings: FeatureSettings) -> dict[str, Any]:
    """The encoder's configuration, without the keys that change no number."""
    left_out = SAME_NUMBERS if settings.pool in HEADS else (*SAME_NUMBERS, "pool_head")
    parts = {"vision": config.vision, "second": config.second}
    if settings.where == "projector":
        parts["projector"] = config.projector
    found = {name: dataclasses.asdict(part) for name, part in parts.items() if part is not None}
    kept = {name: {k: v for k, v in part.items() if k not in left_out} for name, part in found.items()}
    return kept | {"dtype": config.dtype}
