"""Images: read as RGB from any reference, prepared as an encoder was trained, normalised.

Preprocessing ends in uint8, a quarter of the bytes to move to the device; the model normalises with the preset's mean
and std. Rules and numbers per encoder are those of PIVOT's code.
"""

from __future__ import annotations

import errno
import io
import math
import os
import stat
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from pivot_jax.errors import UserError

HALF = (0.5, 0.5, 0.5)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
BICUBIC, BILINEAR = Image.Resampling.BICUBIC, Image.Resampling.BILINEAR
_ROTATED = ("exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif")  # where a rotation may be stored
NOT_REGULAR = "not a regular file"
ROOT_RULE = "relative paths start at image_root, or else at the folder of the data file"
# What Pillow's decoders raise on broken files.
_BROKEN = (OSError, SyntaxError, ValueError, EOFError, IndexError, struct.error, Image.DecompressionBombError)


@dataclass(frozen=True)
class Preset:
    """How an image is prepared for an encoder.

    With ``sizing`` an image keeps its aspect ratio. Without it, the image becomes a square: ``squash`` resizes both
    sides to the size; without ``squash``, the shorter side becomes ``shorter_side(size)`` and the centre is cropped.
    ``torchvision_crop`` is the rounding of an odd margin: Hugging Face's processors take the floor, torchvision and
    timm round half to even.
    """

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    squash: bool = False
    interpolation: Image.Resampling = BICUBIC
    scale: float = 1.0  # shorter side = floor(size * scale), then a crop of size
    torchvision_crop: bool = False
    # Variable-resolution images, as lists of patches (:mod:`patches`): how the size is found, "" | "smart" | "naflex";
    # merge x merge patches become one token; pixels of the windows that the encoder attends within (0: none).
    sizing: str = ""
    merge: int = 1
    window: int = 0

    def shorter_side(self, size: int) -> int:
        return math.floor(size * self.scale + 1e-6)


PRESETS = {
    "siglip": Preset(HALF, HALF, squash=True),  # SigLIP, and SigLIP2 as PIVOT's code takes it
    "siglip2": Preset(HALF, HALF, squash=True, interpolation=BILINEAR),  # SigLIP2's own processors
    "clip": Preset(CLIP_MEAN, CLIP_STD),
    "dinov2": Preset(IMAGENET_MEAN, IMAGENET_STD),  # shorter side = size, as in PIVOT
    "dinov2_224": Preset(IMAGENET_MEAN, IMAGENET_STD, scale=256 / 224),  # DINOv2's own processors: 256, then 224
    "vit": Preset(HALF, HALF, squash=True, interpolation=BILINEAR),  # google/vit-*
    "vit_imagenet": Preset(IMAGENET_MEAN, IMAGENET_STD, squash=True, interpolation=BILINEAR),  # facebook/vit-mae-*
    "convnext": Preset(IMAGENET_MEAN, IMAGENET_STD, scale=1 / 0.875),
    "convnext_384": Preset(IMAGENET_MEAN, IMAGENET_STD, squash=True),  # from 384 pixels on
    # timm's evaluation transform of vit_huge_patch14_224.{mae, orig_in21k}: crop_pct 0.9, bicubic
    "mae": Preset(IMAGENET_MEAN, IMAGENET_STD, scale=1 / 0.9, torchvision_crop=True),
    "sup": Preset(HALF, HALF, scale=1 / 0.9, torchvision_crop=True),
    "moco": Preset(IMAGENET_MEAN, IMAGENET_STD, interpolation=BILINEAR, scale=256 / 224, torchvision_crop=True),
    "qwen2_vl": Preset(CLIP_MEAN, CLIP_STD, sizing="smart", merge=2),
    "qwen2_5_vl": Preset(CLIP_MEAN, CLIP_STD, sizing="smart", merge=2, window=112),
    "siglip2_naflex": Preset(HALF, HALF, sizing="naflex", interpolation=BILINEAR),
}


def preset_of(name: str) -> Preset:
    """Raises UserError for a name that is not in :data:`PRESETS`."""
    if name not in PRESETS:
        raise UserError(f"data.image.preset: {name!r} is not known (allowed: {', '.join(PRESETS)})")
    return PRESETS[name]


def patches(size: int, patch_size: int) -> int:
    """Patch tokens of a square image: floor(size / patch)², as a convolution without padding counts them."""
    return (size // patch_size) ** 2


@dataclass(frozen=True)
class Changed:
    """A reference to an image that is changed when it is loaded; the change keeps its size."""

    reference: Any
    change: Callable[[Image.Image], Image.Image]


def describe(reference: Any) -> str:
    """Words for an image reference in a message."""
    if isinstance(reference, Changed):
        return f"{describe(reference.reference)}, changed"
    if isinstance(reference, (str, Path)):
        return str(reference)
    if isinstance(reference, (bytes, bytearray)):
        return f"of {len(reference)} encoded bytes"
    return f"({type(reference).__name__})"


def load(reference: Any) -> Image.Image:
    """RGB image of a path, bytes, ``{"bytes", "path"}``, uint8 array [h, w(, c)], PIL image or :class:`Changed`.

    Camera rotation (EXIF) is applied. Transparent images are composited on white; without their alpha channel they
    would show the hidden colour, often black on black. 16-bit grey is scaled to 8.

    Raises:
      UserError: missing, truncated, or not an image; the message names the file.
    """
    if isinstance(reference, Changed):
        return reference.change(load(reference.reference))
    return _read(reference, lambda source: _as_rgb(_open(source)))


def _read(reference: Any, use: Callable[[Any], Any]) -> Any:
    if isinstance(reference, dict):
        reference = reference.get("bytes") or reference.get("path")
    try:
        return use(reference)
    except FileNotFoundError:
        raise UserError(f"image file {describe(reference)} does not exist; {ROOT_RULE}") from None
    except _BROKEN as error:
        raise UserError(f"image {describe(reference)} cannot be read ({_reason(error)})") from None


def size_of(reference: Any) -> tuple[int, int]:
    """Height and width of the image that :func:`load` would return, from its file's header.

    Raises:
      UserError: as :func:`load`, as far as a header shows it.
    """
    return _read(reference.reference if isinstance(reference, Changed) else reference, _upright)


def _upright(reference: Any) -> tuple[int, int]:
    if isinstance(reference, (str, Path)):
        with _regular(reference) as file:  # its pixels are not read
            return _upright_size(Image.open(file))
    return _upright_size(_open(reference))


def _upright_size(image: Image.Image) -> tuple[int, int]:
    file = getattr(image, "fp", None)
    if image.format == "PNG" and file is not None and _has_late_metadata(file):
        image.load()  # it may hold a rotation
    rotated = image.format == "MPO" or any(key in image.info for key in _ROTATED)
    rotated = rotated and image.format != "TIFF"  # Pillow has turned its size already
    sideways = rotated and image.getexif().get(ExifTags.Base.Orientation) in (5, 6, 7, 8)
    return image.size if sideways else image.size[::-1]


def _has_late_metadata(file: Any) -> bool:
    """Whether a PNG has text or camera metadata after its pixels. The file's position does not change."""
    start, after_pixels = file.tell(), False
    file.seek(8)
    while len(head := file.read(8)) == 8:
        size, kind = struct.unpack(">I4s", head)
        after_pixels = after_pixels or kind == b"IDAT"
        if kind == b"IEND" or (after_pixels and kind in (b"eXIf", b"tEXt", b"zTXt", b"iTXt")):
            break
        file.seek(size + 4, io.SEEK_CUR)
    file.seek(start)
    return len(head) == 8 and kind != b"IEND"


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):  # its own words name a buffer in memory
        return "not an image, or of an unknown format"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def _open(reference: Any) -> Image.Image:
    if isinstance(reference, Image.Image):
        return reference
    if isinstance(reference, np.ndarray):
        if reference.dtype != np.uint8 or reference.ndim not in (2, 3):
            raise ValueError(f"array of {reference.dtype} {reference.shape}, not uint8 [h, w] or [h, w, c]")
        return Image.fromarray(reference[..., 0] if reference.ndim == 3 and reference.shape[2] == 1 else reference)
    if isinstance(reference, (bytes, bytearray)):
        return Image.open(io.BytesIO(reference))
    if isinstance(reference, (str, Path)):
        with _regular(reference) as file:  # read at once: Pillow keeps lazily opened files open
            return Image.open(io.BytesIO(file.read()))
    raise ValueError(f"{type(reference).__name__} is not a path, bytes, an array or an image")


def _regular(path: str | Path) -> Any:
    """An open file. A pipe would block the reader for ever, and a device such as /dev/zero fill the memory."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return os.fdopen(descriptor, "rb")
    os.close(descriptor)
    raise OSError(errno.EINVAL, NOT_REGULAR)


def _as_rgb(image: Image.Image) -> Image.Image:
    image.load()  # a truncated file fails here; and some formats know their rotation only now
    if image.format in ("TIFF", "MPO") or any(key in image.info for key in _ROTATED):
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith(("I", "F")):
        return _from_deep(image)
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        image = image.convert("RGBA")
        if image.getchannel("A").getextrema()[0] == 255:
            return image.convert("RGB")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB") if image.mode != "RGB" else image


def _from_deep(image: Image.Image) -> Image.Image:
    """16-bit, 32-bit and float grey as 8-bit. Pillow's own conversion clips at 255 and shows white."""
    values = np.asarray(image).astype(np.float64)
    if image.mode == "F":
        scaled = values * 255 if values.max(initial=0) <= 1 else values
    else:
        scaled = values / 257 if image.mode.startswith("I;16") or values.max(initial=0) > 255 else values
    return Image.fromarray(np.clip(np.rint(scaled), 0, 255).astype(np.uint8)).convert("RGB")


def preprocess(
    image: Image.Image, preset: str = "siglip", size: int = 384, interpolation: Image.Resampling | None = None
) -> np.ndarray:
    """The image as the encoder's own processor would resize and crop it: uint8 [size, size, 3].

    Equal to Hugging Face's ``SiglipImageProcessorPil``, ``CLIPImageProcessorPil`` and (shortest edge = crop)
    ``BitImageProcessorPil`` before their normalisation, and to torchvision's evaluation transform for the others.

    Args:
      interpolation: in place of the preset's, for a mask; an image of one channel gives [size, size].
    """
    rule = preset_of(preset)
    interpolation = rule.interpolation if interpolation is None else interpolation
    if rule.squash:
        if image.size != (size, size):
            image = image.resize((size, size), interpolation)
        return np.asarray(image)
    short = rule.shorter_side(size)
    width, height = image.size
    if width <= height:
        target = (short, int(short * height / width))
    else:
        target = (int(short * width / height), short)
    if target != image.size:
        image = image.resize(target, interpolation)
    left, top = ((side - size) / 2 for side in target)
    x, y = (round(left), round(top)) if rule.torchvision_crop else (math.floor(left), math.floor(top))
    return np.asarray(image)[y : y + size, x : x + size]


def pad_to_square(image: Image.Image, preset: str = "siglip") -> Image.Image:
    """The image centred on a square of the preset's mean colour, as LLaVA does in rows of several images."""
    width, height = image.size
    if width == height:
        return image
    side = max(width, height)
    color = tuple(int(x * 255) for x in preset_of(preset).mean)
    square = Image.new("RGB", (side, side), color)
    square.paste(image, ((side - width) // 2, (side - height) // 2))
    return square
