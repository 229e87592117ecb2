"""Labelled images from plain folders, as arrays for an encoder.

* classification: ``DIR/{train,val,test}/CLASS/*.jpg|png``;
* segmentation: ``DIR/{train,val,test}/NAME.jpg|png`` with ``DIR/{train,val,test}annot/NAME.png`` of class ids (CamVid).

Without ``val``, a fifth of ``train`` is set aside for it, so nothing is ever chosen on ``test``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from pivot_jax.data.processing.geometry import Geometry
from pivot_jax.data.processing.images import load
from pivot_jax.errors import UserError
from pivot_jax.words import counted

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
VAL_SHARE = 0.2


@dataclass(frozen=True)
class Files:
    """Image paths of one split with a label each: a class index, or a path to a mask."""

    images: tuple[Path, ...]
    labels: tuple[int, ...] | tuple[Path, ...]

    def __len__(self) -> int:
        return len(self.images)

    def take(self, indices: np.ndarray) -> Files:
        return Files(tuple(self.images[i] for i in indices), tuple(self.labels[i] for i in indices))


class ImageFiles:
    """Images by index, uint8 [size, size, 3], read and prepared on access."""

    def __init__(self, paths: tuple[Path, ...], geometry: Geometry):
        self.paths, self.geometry = paths, geometry

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> np.ndarray:
        return self.geometry.convert(load(self.paths[index]), True).pixels[0]


def classification(root: str | Path, seed: int = 0) -> tuple[dict[str, Files], tuple[str, ...]]:
    """Splits ``train``, ``val``, ``test`` and the class names of ``train``, sorted.

    Raises:
      UserError: a split or its images are missing, or a class of another split is not in ``train``.
    """
    folder = Path(root)
    names = tuple(sorted(path.name for path in _split_folder(folder, "train").iterdir() if path.is_dir()))
    if len(names) < 2:
        raise UserError(
            f"{folder}/train: {counted(len(names), 'class folder')}; a probe needs two or more (train/CLASS/*.jpg)"
        )
    splits = {}
    for split in ("train", "val", "test"):
        if split == "val" and not (folder / split).is_dir():
            continue
        here = _split_folder(folder, split)
        strange = sorted(path.name for path in here.iterdir() if path.is_dir() and path.name not in names)
        if strange:
            raise UserError(f"{here}: class '{strange[0]}' is not in {folder}/train")
        found = [(path, index) for index, name in enumerate(names) for path in _images(here / name)]
        splits[split] = _files(here, found)
    return _with_val(splits, seed), names


def segmentation(root: str | Path, seed: int = 0) -> dict[str, Files]:
    """Splits ``train``, ``val``, ``test`` of images and mask paths.

    Raises:
      UserError: a split is missing, or an image has no mask.
    """
    folder = Path(root)
    splits = {}
    for split in ("train", "val", "test"):
        if split == "val" and not (folder / split).is_dir():
            continue
        here = _split_folder(folder, split)
        pairs = [(path, folder / f"{split}annot" / f"{path.stem}.png") for path in _images(here)]
        missing = [mask for _, mask in pairs if not mask.is_file()]
        if missing:
            raise UserError(f"{here}: no mask for {counted(len(missing), 'image')}, such as {missing[0]}")
        splits[split] = _files(here, pairs)
    return _with_val(splits, seed)


def masks(paths: tuple[Path, ...], size: int) -> np.ndarray:
    """Class ids uint8 [n, size, size]; squashed with nearest neighbour, as SigLIP squashes its images.

    Raises:
      UserError: a mask that cannot be read.
    """
    out = np.empty((len(paths), size, size), np.uint8)
    for index, path in enumerate(paths):
        try:
            with Image.open(path) as mask:
                out[index] = np.asarray(mask.resize((size, size), Image.Resampling.NEAREST), np.uint8)
        except (OSError, ValueError) as error:
            raise UserError(f"mask {path} cannot be read ({error}); it must be an 8-bit image of class ids") from None
    return out


def _split_folder(folder: Path, split: str) -> Path:
    here = folder / split
    if not here.is_dir():
        raise UserError(f"no folder '{here}'; the data need {folder}/train and {folder}/test")
    return here


def _images(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*") if path.suffix.lower() in SUFFIXES)


def _files(here: Path, pairs: list) -> Files:
    if not pairs:
        raise UserError(f"{here}: no images ({', '.join(SUFFIXES)})")
    paths, labels = zip(*pairs, strict=True)
    return Files(tuple(paths), tuple(labels))


def _with_val(splits: dict[str, Files], seed: int) -> dict[str, Files]:
    if "val" in splits:
        return splits
    order = np.random.default_rng(seed).permutation(len(splits["train"]))
    count = max(1, round(VAL_SHARE * len(order)))
    train = splits["train"]
    return splits | {"train": train.take(np.sort(order[count:])), "val": train.take(np.sort(order[:count]))}
