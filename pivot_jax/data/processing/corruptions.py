"""Changes of images: noise, blur, occlusion, shift and crop, for the robustness probe and for visual pairs.

Levels are shares, so that images of every size are changed alike; an image keeps its size. What is random is drawn from
a seed and the image's own pixels: the same image is always changed in the same way, whatever set it is in. Gaussian
noise and blur are as in ImageNet-C (Hendrycks and Dietterich 2019), with other levels.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter

from pivot_jax.errors import UserError

GREY = (128, 128, 128)
LEVELS = {
    "noise": (0.05, 0.1, 0.2),  # standard deviation, of the range of a pixel
    "blur": (0.01, 0.02, 0.04),  # standard deviation of the Gaussian, of the shorter side
    "occlusion": (0.1, 0.25, 0.5),  # area of a grey rectangle of the image's shape at a random place
    "shift": (0.05, 0.1, 0.2),  # of each side, in one of four diagonal directions; grey moves in
    "crop": (0.1, 0.25, 0.5),  # area that is cut off around a random rectangle of the image's shape
}


@dataclass(frozen=True)
class Corruption:
    """One change of images; call it with one in RGB.

    Raises:
      UserError: a kind that is not in :data:`LEVELS`, or a level outside 0 to 1.
    """

    kind: str
    level: float
    seed: int = 0

    def __post_init__(self) -> None:
        if self.kind not in LEVELS:
            raise UserError(f"corruption '{self.kind}' is unknown; choose one of {', '.join(LEVELS)}")
        if not 0 <= self.level <= 1:
            raise UserError(f"corruption '{self.kind}': level {self.level:g} is not a share from 0 to 1")

    def __str__(self) -> str:
        return f"{self.kind} {self.level:g} seed {self.seed}"

    def __call__(self, image: Image.Image) -> Image.Image:
        return _KINDS[self.kind](image, self.level, np.random.default_rng((self.seed, zlib.crc32(image.tobytes()))))


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
    out = image.copy()
    out.paste(GREY, _rectangle(image, level, generator))
    return out


def shift(image: Image.Image, level: float, generator: np.random.Generator) -> Image.Image:
    """The image moved on a grey canvas of its size."""
    out = Image.new("RGB", image.size, GREY)
    signs = generator.choice((-1, 1), 2)
    out.paste(image, (int(signs[0]) * round(image.size[0] * level), int(signs[1]) * round(image.size[1] * level)))
    return out


def crop(image: Image.Image, level: float, generator: np.random.Generator) -> Image.Image:
    """What is left after a share of the area is cut off, enlarged to the image's size."""
    box = _rectangle(image, 1 - level, generator)
    return image.crop((box[0], box[1], max(box[2], box[0] + 1), max(box[3], box[1] + 1))).resize(image.size)


def _rectangle(image: Image.Image, area: float, generator: np.random.Generator) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of a share of the image, of its shape, at a random place."""
    width, height = (round(side * area**0.5) for side in image.size)
    left, top = (
        int(generator.integers(0, full - side + 1)) for full, side in zip(image.size, (width, height), strict=True)
    )
    return left, top, left + width, top + height


_KINDS = {"noise": noise, "blur": blur, "occlusion": occlusion, "shift": shift, "crop": crop}
