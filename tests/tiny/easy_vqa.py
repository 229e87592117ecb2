"""A small package of easy-VQA's form: drawn shapes, and questions whose answers are what is drawn."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from pivot_jax.data.easy_vqa import COLORS, SHAPES

RGB = {
    "black": (0, 0, 0),
    "blue": (0, 0, 255),
    "brown": (165, 42, 42),
    "gray": (128, 128, 128),
    "green": (0, 255, 0),
    "red": (255, 0, 0),
    "teal": (0, 128, 128),
    "yellow": (255, 255, 0),
}


def write_package(folder: Path, train: int = 40, test: int = 10) -> Path:
    """``folder/easy_vqa``, to be found on sys.path, with so many images and six questions about each."""
    rng = np.random.default_rng(0)
    for split, count in (("train", train), ("test", test)):
        rows = []
        for number in range(count):
            color, shape = COLORS[rng.integers(len(COLORS))], SHAPES[rng.integers(len(SHAPES))]
            other = next(name for name in COLORS if name != color)
            path = folder / "easy_vqa/data" / split / "images" / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            draw(color, shape, rng).save(path)
            rows += [
                ["what color is the shape?", color, number],
                [f"what is the {color} shape?", shape, number],
                [f"is there a {shape} in the image?", "yes", number],
                [f"is a {other} shape present?", "no", number],
                [f"is there not a {color} shape?", "no", number],
                [f"is no {other} shape present?", "yes", number],
            ]
        (folder / "easy_vqa/data" / split / "questions.json").write_text(json.dumps(rows))
    (folder / "easy_vqa/__init__.py").write_text("")
    return folder / "easy_vqa"


def draw(color: str, shape: str, rng: np.random.Generator) -> Image.Image:
    image = Image.new("RGB", (64, 64), tuple(int(value) for value in rng.integers(228, 256, 3)))
    left, top, size = (int(value) for value in (*rng.integers(0, 40, 2), rng.integers(12, 24)))
    box, pen = (left, top, left + size, top + size), ImageDraw.Draw(image)
    if shape == "triangle":
        pen.polygon([(left, top + size), (left + size, top + size), (left + size // 2, top)], fill=RGB[color])
    else:
        (pen.ellipse if shape == "circle" else pen.rectangle)(box, fill=RGB[color])
    return image
