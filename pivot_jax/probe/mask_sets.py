"""Images with masks of class ids, from the layouts that data sets of segmentation come in.

* CamVid: ``DIR/{train,val,test}/NAME.jpg|png`` with ``DIR/{train,val,test}annot/NAME.png``;
* ADE20K (scene parsing): ``DIR/images/{training,validation}/*.jpg``, ``DIR/annotations/{training,validation}/*.png``,
  class names in ``DIR/objectInfo150.txt``; id 0 is "other";
* VOC: ``DIR/JPEGImages/*.jpg``, ``DIR/SegmentationClass/*.png``, names in ``DIR/ImageSets/Segmentation/*.txt``; id 255
  is not labelled.

Without ``val``, a fifth of ``train`` is set aside for it, so nothing is ever chosen on the reported images. Without
``test``, ``val`` is what is reported.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from pivot_jax.data.processing.geometry import Geometry
from pivot_jax.data.processing.images import size_of
from pivot_jax.errors import UserError
from pivot_jax.probe.class_sets import SUFFIXES, images_in
from pivot_jax.probe.image_sets import Change
from pivot_jax.probe.splits import LabelledImages, with_val
from pivot_jax.words import counted

VOC = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable",
    "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
VOC_IGNORE = 255
ADE20K_CLASSES = "objectInfo150.txt"


@dataclass(frozen=True)
class MaskSet:
    """Splits of images and mask paths, and what the layout says about the ids.

    Attributes:
      classes: names in id order; () where the layout has none.
      ignore: id of pixels that do not count; None: there is none.
    """

    splits: dict[str, LabelledImages]
    classes: tuple[str, ...] = ()
    ignore: int | None = None


def segmentation(root: str | Path, seed: int = 0) -> MaskSet:
    """The data set of a folder, by its layout.

    Raises:
      UserError: a split is missing, or an image has no mask.
    """
    folder = Path(root)
    for marker, read in LAYOUTS.items():
        if (folder / marker).is_dir():
            found = read(folder)
            break
    else:
        found = _camvid(folder)
    splits = dict(found.splits)
    if "test" not in splits and "val" in splits:
        splits["test"] = splits.pop("val")
    if "test" not in splits:
        raise UserError(f"no folder '{folder / 'test'}', nor val; the data need {folder}/train and {folder}/test")
    return MaskSet(with_val(splits, seed), found.classes, found.ignore)


def _camvid(folder: Path) -> MaskSet:
    if not (folder / "train").is_dir():
        raise UserError(
            f"no folder '{folder / 'train'}'; the data need {folder}/train and {folder}/test with their "
            "masks in trainannot and testannot, or the layout of ADE20K or VOC"
        )
    there = [split for split in ("train", "val", "test") if (folder / split).is_dir()]
    found = {split: _pairs(folder / split, images_in(folder / split), folder / f"{split}annot") for split in there}
    return MaskSet(found)


def _ade20k(folder: Path) -> MaskSet:
    splits = {}
    for split, name in (("train", "training"), ("val", "validation")):
        images = folder / "images" / name
        if not images.is_dir():
            raise UserError(f"no folder '{images}'; ADE20K has images/training and images/validation")
        splits[split] = _pairs(images, images_in(images), folder / "annotations" / name)
    return MaskSet(splits, _ade20k_classes(folder / ADE20K_CLASSES))


def _ade20k_classes(path: Path) -> tuple[str, ...]:
    """ "other" and the names of the table's last column; () without the file."""
    if not path.is_file():
        return ()
    rows = path.read_text(encoding="utf-8").splitlines()[1:]
    return ("other", *(row.split("\t")[-1].split(",")[0].strip() for row in rows if row.strip()))


def _voc(folder: Path) -> MaskSet:
    lists = folder / "ImageSets" / "Segmentation"
    splits = {}
    for split in ("train", "val", "test"):
        names = lists / f"{split}.txt"
        if not names.is_file():
            if split == "train":
                raise UserError(f"no file '{names}'; VOC lists the images of its splits there")
            continue
        images = [folder / "JPEGImages" / f"{name}.jpg" for name in names.read_text(encoding="utf-8").split()]
        if missing := [path for path in images if not path.is_file()]:
            raise UserError(f"{names}: no image for {counted(len(missing), 'name')}, such as {missing[0]}")
        splits[split] = _pairs(names, images, folder / "SegmentationClass")
    return MaskSet(splits, VOC, VOC_IGNORE)


LAYOUTS: dict[str, Callable[[Path], MaskSet]] = {"JPEGImages": _voc, "annotations": _ade20k}  # by a folder of theirs


def _pairs(here: Path, images: Iterable[Path], masks: Path) -> LabelledImages:
    pairs = [(path, masks / f"{path.stem}.png") for path in images]
    if not pairs:
        raise UserError(f"{here}: no images ({', '.join(SUFFIXES)})")
    missing = [mask for _, mask in pairs if not mask.is_file()]
    if missing:
        raise UserError(f"{here}: no mask for {counted(len(missing), 'image')}, such as {missing[0]}")
    return LabelledImages(tuple(path for path, _ in pairs), tuple(mask for _, mask in pairs))


def masks(images: LabelledImages, geometry: Geometry, change: Change | None = None) -> list[np.ndarray]:
    """Class ids of every image where the encoder sees them, resized (nearest) and cropped as it is: uint8 [H, W].

    Args:
      change: of the images, which their masks follow: one that moves pixels.

    Raises:
      UserError: a mask that cannot be read, is no image of ids, or has another size than its image.
    """
    return [_mask(image, path, geometry, change) for image, path in zip(images.images, images.labels, strict=True)]


def _mask(image: Path, path: Path, geometry: Geometry, change: Change | None) -> np.ndarray:
    try:
        with Image.open(path) as mask:
            if mask.mode not in ("L", "P", "1"):
                raise ValueError(f"its mode is {mask.mode}")
            size, wanted = mask.size[::-1], size_of(image)
            if size != wanted:
                raise ValueError(f"it has {size[1]}x{size[0]} pixels and its image {wanted[1]}x{wanted[0]}")
            return np.asarray(geometry.resized_mask(change.apply(mask) if change else mask), np.uint8)
    except (OSError, ValueError) as error:
        raise UserError(f"mask {path} cannot be read ({error}); it must be an 8-bit image of class ids") from None
