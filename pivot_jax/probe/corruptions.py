"""Changes of images for the robustness probe: noise, blur, occlusion and shift, each at three levels.

Levels are shares, so that images of every size are changed alike. What is random is drawn from a seed and the image's
own pixels: the same image is always changed in the same way, whatever set it is in. Gaussian noise and blur are as in
ImageNet-C (Hendrycks and Dietterich 2019), with other levels.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from functools import partial

import numpy as np
from PIL import Image, ImageFilter

from pivot_jax.errors import UserError
from pivot_jax.probe.image_sets import Change

GREY = (128, 128, 128)
LEVELS = {
    "noise": (0.05, 0.1, 0.2),  # standard deviation, of the range of a pixel
    "blur": (0.01, 0.02, 0.04),  # standard deviation of the Gaussian, of the shorter side
    "occlusion": (0.1, 0.25, 0.5),  # area of a grey rectangle of the image's shape at a random place
    "shift": (0.05, 0.1, 0.2),  # of each side, in one of four diagonal directions; grey moves in
}


def corruption(kind: str, level: float, seed: int = 0) -> Change:
    """The change of a kind of :data:`LEVELS`. Raises UserError for another kind, or a level outside 0 to 1."""
    if kind not in LEVELS:
        raise UserError(f"corruption '{kind}' is unknown; choose one of {', '.join(LEVELS)}")
    if not 0 <= level <= 1:
        raise UserError(f"corruption '{kind}': level {level:g} is not a share from 0 to 1")
    return Change(f"{kind} {level:g} seed {seed}", partial(_changed, _KINDS[kind], level, seed))


def _changed(apply: Callable[[Image.Image, float, np.random.Generator], Image.Image], level: float, seed: int,
             image: Image.Image) -> Image.Image:  # fmt: skip
    return apply(image, level, np.random.default_rng((seed, zlib.crc32(image.tobytes()))))


def noise(image: Image.Image, level: float, generator: np.random.Generator) -> Image.Image:
    """Independent Gaussian noise on every value, clipped to the range of a pixel."""
    pixels = np.asarray(image, np.float32)
    noisy = pixels + 255 * level * generator.standard_normal(pixels.shape, np.float32)
    return Image.fromarray(np.clip(np.rint(noisy), 0, 255).astype(np.uint8))


def blur(image: Image.Image, level: float, generator: np.random.Generator) -> Image.Image:
    """Gaussian blur."""
    return image.filter(ImageFilter.GaussianBlur(level * min(image.size)))


def occlusion(image: Image.Image, level: float, generator: np.random.Generator) -> Image.Image:
    """A grey rectangle over a share of the area."""
    width, height = (round(side * level**0.5) for side in image.size)
    left, top = (
        int(generator.integers(0, full - side + 1)) for full, side in zip(image.size, (width, height), strict=True)
    )
    out = image.copy()
    out.paste(GREY, (left, top, left + width, top + height))
    return out


def shift(image: Image.Image, level: float, generator: np.random.Generator) -> Image.Image:
    """The image moved on a grey canvas of its size."""
    out = Image.new("RGB", image.size, GREY)
    signs = generator.choice((-1, 1), 2)
    out.paste(image, (int(signs[0]) * round(image.size[0] * level), int(signs[1]) * round(image.size[1] * level)))
    return out


_KINDS = {"noise": noise, "blur": blur, "occlusion": occlusion, "shift": shift}
