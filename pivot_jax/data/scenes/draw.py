"""Drawing a scene: an RGB image and, for every pixel, the foremost thing."""

from __future__ import annotations

import functools
import io
import struct
import zlib

import numpy as np
from PIL import Image, ImageDraw
from sklearn.datasets import load_digits

from pivot_jax.data.scenes.world import COLORS, DIGIT, Scene, Thing, World

SUPERSAMPLE = 4  # shapes are drawn this many times larger and averaged down: anti-aliased edges
HELD_OUT_DIGITS = 0.25  # the last quarter of each digit's samples; the set is ordered by writer


@functools.cache
def _digits() -> tuple[np.ndarray, np.ndarray]:
    """Handwritten digits: ink uint8 [1797, 8, 8] and values [1797] (UCI optdigits, shipped in scikit-learn)."""
    digits = load_digits()
    return (digits.images * (255 / 16)).astype(np.uint8), digits.target


@functools.cache
def digit_samples(held_out: bool) -> dict[int, np.ndarray]:
    """Sample indices by digit value, from the training or from the held-out handwriting."""
    _, target = _digits()
    out = {}
    for value in range(10):
        index = np.flatnonzero(target == value)
        cut = round(len(index) * (1 - HELD_OUT_DIGITS))
        out[value] = index[cut:] if held_out else index[:cut]
    return out


def _outline(shape: str, draw: ImageDraw.ImageDraw, d: float) -> None:
    """Draws ``shape`` filled into a d by d square."""
    if shape == "circle":
        draw.ellipse((0, 0, d - 1, d - 1), fill=255)
    elif shape == "ring":
        draw.ellipse((0, 0, d - 1, d - 1), fill=255)
        draw.ellipse((d * 0.3, d * 0.3, d * 0.7, d * 0.7), fill=0)
    elif shape == "square":
        draw.rectangle((d * 0.07, d * 0.07, d * 0.93, d * 0.93), fill=255)
    elif shape == "triangle":
        draw.polygon([(d / 2, 0), (d - 1, d * 0.92), (0, d * 0.92)], fill=255)
    elif shape == "diamond":
        draw.polygon([(d / 2, 0), (d - 1, d / 2), (d / 2, d - 1), (0, d / 2)], fill=255)
    else:
        draw.rectangle((d * 0.34, 0, d * 0.66, d - 1), fill=255)
        draw.rectangle((0, d * 0.34, d - 1, d * 0.66), fill=255)


@functools.cache
def sprite(shape: str, diameter: int, sample: int) -> np.ndarray:
    """Coverage of a thing, float32 [diameter, diameter] in 0..1. ``sample`` is the digit's, else -1."""
    if shape == DIGIT:
        ink = Image.fromarray(_digits()[0][sample])
        image = ink.resize((diameter, diameter), Image.Resampling.BICUBIC)
    else:
        big = diameter * SUPERSAMPLE
        image = Image.new("L", (big, big))
        _outline(shape, ImageDraw.Draw(image), float(big))
        image = image.resize((diameter, diameter), Image.Resampling.BOX)
    return np.asarray(image, np.float32) / 255


def render(world: World, scene: Scene, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Image uint8 [s, s, 3] and instance map uint8 [s, s]: 0 background, i+1 where ``scene[i]`` is the foremost thing.

    Things are drawn in the scene's order, so later ones hide parts of earlier ones.
    """
    side = world.image_size
    canvas = np.empty((side, side, 3), np.float32)
    canvas[:] = rng.uniform(15, 60, 3)
    instances = np.zeros((side, side), np.uint8)
    for index, thing in enumerate(scene):
        alpha = sprite(thing.shape, world.diameter(thing.size, thing.shape), thing.sample)
        d = alpha.shape[0]
        left, top = thing.x - d // 2, thing.y - d // 2
        ys, xs = slice(max(0, top), min(side, top + d)), slice(max(0, left), min(side, left + d))
        part = alpha[ys.start - top : ys.stop - top, xs.start - left : xs.stop - left]
        ink = np.asarray(COLORS[thing.color], np.float32) + rng.uniform(-12, 12, 3)
        canvas[ys, xs] += part[..., None] * (ink - canvas[ys, xs])
        instances[ys, xs][part >= 0.5] = index + 1
    canvas += world.noise * rng.standard_normal(canvas.shape, np.float32)
    return canvas.clip(0, 255).astype(np.uint8), instances


def box(world: World, thing: Thing) -> list[int]:
    """Box [x1, y1, x2, y2] of a thing's pixels in the instance map, if nothing hides it; x2 - x1 is its width.

    A part outside the image does not count.
    """
    ink = sprite(thing.shape, world.diameter(thing.size, thing.shape), thing.sample) >= 0.5
    ys, xs = np.nonzero(ink)
    ys, xs = ys + thing.y - ink.shape[0] // 2, xs + thing.x - ink.shape[0] // 2
    inside = (xs >= 0) & (xs < world.image_size) & (ys >= 0) & (ys < world.image_size)
    xs, ys = xs[inside], ys[inside]
    return [int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1]


def class_mask(world: World, instances: np.ndarray, things: list[dict], by: str = "shape") -> np.ndarray:
    """Instance map uint8 [s, s] → class map: 0 background, then ``world.nouns`` (or ``world.colors``) from 1."""
    names = {"shape": world.nouns, "color": world.colors}[by]
    table = np.array([0] + [1 + names.index(thing[by]) for thing in things], np.uint8)
    return table[instances]


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(array: np.ndarray) -> io.BytesIO:
    """PNG of uint8 [h, w] or [h, w, 3], ten times faster than PIL's writer at this size.

    TFDS stores such bytes as they are; for an array it would import TensorFlow.
    """
    height, width = array.shape[:2]
    color_type = 2 if array.ndim == 3 else 0
    rows = np.zeros((height, 1 + width * (3 if color_type else 1)), np.uint8)  # each row begins with filter type 0
    rows[:, 1:] = array.reshape(height, -1)
    header = struct.pack(">IIBBBBB", width, height, 8, color_type, 0, 0, 0)
    body = _chunk(b"IHDR", header) + _chunk(b"IDAT", zlib.compress(rows.tobytes(), 1)) + _chunk(b"IEND", b"")
    return io.BytesIO(b"\x89PNG\r\n\x1a\n" + body)
