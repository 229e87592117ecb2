"""easy-VQA as a folder of training data, validation and test questions, made from the installed package.

    DIR/images/{train,test}/N.png    64 × 64 pixels
    DIR/images/copies/N-K.png        training images with their shape at another place, for stage 0
    DIR/classes/SPLIT/CLASS/N.png    train, val and test images by color and shape, as `pivot-jax probe classify` reads
    DIR/captions.json                stage 1a: images of the training part with a caption, LLaVA's format
    DIR/stage0.json                  stage 0: the same, and the copies with captions of their own
    DIR/labels.json                  the images of stage0.json with their class, "blue circle" (supervised stage 0)
    DIR/vqa.json                     stages 1b and 3: every training question, LLaVA's format, in random order
    DIR/pairs.jsonl                  all arms: questions with the right and a wrong answer, TRL's format
    DIR/val.jsonl, DIR/test.jsonl    questions of the benchmark easy-vqa
    DIR/about.json                   seed, sizes, numbers of rows and images, SHA-256 of each file

``pairs.jsonl`` are the rows of ``vqa.json`` that follow its first ``before_pairs``, so a stage 1b that stops there has
not seen them.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pivot_jax import files
from pivot_jax.config.paths import INSTALL
from pivot_jax.data.draws import draw
from pivot_jax.data.easy_vqa import copies, rows
from pivot_jax.data.easy_vqa import questions as package
from pivot_jax.data.easy_vqa.questions import Question
from pivot_jax.errors import UserError

VERSION = 3  # of what is written; another one makes the folder again
ABOUT = "about.json"


@dataclass(frozen=True)
class Sizes:
    """How much of it goes where."""

    val_images: int = 200  # of the 4,000 training images, with all their questions
    copies: int = 12  # of each training image whose color and shape are known
    before_pairs: int = 8_000  # rows of vqa.json that come before those of the pairs
    pairs: int = 4_000
    test: int = 2_000  # of the 9,673 test questions


def prepare(out: str | Path, seed: int = 0, sizes: Sizes | None = None) -> dict[str, Any]:
    """Writes the folder unless it is there with the same seed and sizes; returns the content of its about.json.

    The same seed gives the same bytes. Every choice is by a hash of seed and content.

    Raises:
      UserError: the package is not installed or is not version 1.0, sizes that it cannot fill, a folder that holds
        anything else, or a test image that is also a training image.
    """
    folder, sizes = Path(out), sizes or Sizes()
    wanted = {"data": "easy-vqa", "version": VERSION, "seed": seed, "sizes": asdict(sizes)}
    if (folder / ABOUT).is_file():
        about = _about(folder)
        if all(about.get(key) == value for key, value in wanted.items()):
            return about
    files.check_folder(folder, overwrite=True)
    parts = _parts(seed, sizes)
    with files.whole_folder(folder, overwrite=True) as into:
        pixels = {split: _copy_images(split, into) for split in ("train", "test")}
        _check_apart(pixels["train"], pixels["test"])
        contents = _contents(parts, seed, sizes.copies)
        _write_copies(into, parts["train"], seed, sizes.copies)
        for split in ("train", "val"):
            _write_classes(into, split, "train", parts[split])
        _write_classes(into, "test", "test", package.read("test"))
        for name, found in contents.items():
            files.write_text(into / name, _text(name, found))
        about = wanted | {
            "images": {split: len(found) for split, found in pixels.items()},
            "images_sha256": {split: _sha256("".join(found.values()).encode()) for split, found in pixels.items()},
            "rows": {name: len(found) for name, found in contents.items()},
            "kinds": {name: _kinds(found) for name, found in contents.items() if found and "kind" in found[0]},
            "val_images": sorted({question.image for question in parts["val"]}),
            "sha256": {name: _sha256((into / name).read_bytes()) for name in contents},
        }
        files.write_text(into / ABOUT, json.dumps(about, indent=1) + "\n")
    return about


def _parts(seed: int, sizes: Sizes) -> dict[str, list[Question]]:
    """``train``, ``val`` and ``test`` questions in their order. Raises UserError where there are too few."""
    if low := [field.name for field in fields(sizes) if getattr(sizes, field.name) < 1]:
        raise UserError(f"easy-VQA: {low[0]} is {getattr(sizes, low[0])}; it must be at least 1")
    train, test = package.read("train"), rows.ordered(package.read("test"), seed)
    images = sorted(package.by_image(train), key=lambda image: draw(seed, "val", image))
    held_out = set(images[: sizes.val_images])
    ours = rows.ordered((one for one in train if one.image not in held_out), seed)
    if sizes.before_pairs + sizes.pairs > len(ours) or sizes.test > len(test):
        raise UserError(
            f"easy-VQA: {sizes.before_pairs} + {sizes.pairs} training and {sizes.test} test questions are wanted; "
            f"without {sizes.val_images} images it has {len(ours)} and {len(test)}"
        )
    val = rows.ordered((one for one in train if one.image in held_out), seed)
    return {"train": ours, "val": val, "test": test[: sizes.test], "pairs": _pairs(ours, sizes)}


def _pairs(train: Sequence[Question], sizes: Sizes) -> list[Question]:
    return list(train[sizes.before_pairs : sizes.before_pairs + sizes.pairs])


def _contents(parts: Mapping[str, list[Question]], seed: int, count: int) -> dict[str, list[dict[str, Any]]]:
    """File → its rows."""
    train, known = partial(_image, "train"), package.facts(parts["train"])

    def captions(copied: int, label: bool) -> list[dict[str, Any]]:
        shown = [(image, copy) for copy in range(copied + 1) for image in known]
        return [
            rows.caption_row(image, copy, known[image], _copy(image, copy) if copy else train(image), seed, label=label)
            for image, copy in shown
        ]

    return {
        "captions.json": captions(0, label=False),
        "stage0.json": captions(count, label=False),
        "labels.json": captions(count, label=True),
        "vqa.json": [rows.vqa_row(one, train(one.image)) for one in parts["train"]],
        "pairs.jsonl": [rows.pair_row(one, train(one.image), seed) for one in parts["pairs"]],
        "val.jsonl": [rows.test_row(one, train(one.image)) for one in parts["val"]],
        "test.jsonl": [rows.test_row(one, _image("test", one.image)) for one in parts["test"]],
    }


def _image(split: str, number: int) -> str:
    return f"images/{split}/{number}.png"


def _copy(image: int, copy: int) -> str:
    return f"images/copies/{image}-{copy}.png"


def _write_copies(into: Path, train: Sequence[Question], seed: int, count: int) -> None:
    (into / "images/copies").mkdir(parents=True)
    for image in package.facts(train):
        for copy in range(1, count + 1):
            copies.write(package.image_file("train", image), into / _copy(image, copy), seed, image, copy)


def _write_classes(into: Path, split: str, source: str, questions: Sequence[Question]) -> None:
    """Class folders of the images whose questions tell what they show."""
    for image, fact in package.facts(questions).items():
        target = into / "classes" / split / rows.class_name(fact) / f"{image}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(into / _image(source, image), target)


def _copy_images(split: str, into: Path) -> dict[int, str]:
    """Copies a split's images; image → SHA-256 of its pixels, ascending."""
    found = {}
    for number in sorted({one.image for one in package.read(split)}):
        source, target = package.image_file(split, number), into / _image(split, number)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
        with Image.open(target) as image:
            found[number] = _sha256(np.asarray(image.convert("RGB")).tobytes())
    return found


def _check_apart(train: Mapping[int, str], test: Mapping[int, str]) -> None:
    """Raises UserError for a test image with the pixels of a training image."""
    seen = {pixels: number for number, pixels in train.items()}
    if twice := [(number, seen[pixels]) for number, pixels in test.items() if pixels in seen]:
        raise UserError(
            f"easy-VQA: test image {twice[0][0]} is training image {twice[0][1]}; {INSTALL[package.PACKAGE]}"
        )


def _text(name: str, found: Sequence[Mapping[str, Any]]) -> str:
    lines = [json.dumps(row) for row in found]
    return "".join(f"{line}\n" for line in lines) if name.endswith("l") else "[\n" + ",\n".join(lines) + "\n]\n"


def _kinds(found: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    count: Callable[[str], int] = Counter(row["kind"] for row in found).__getitem__
    return {kind: count(kind) for kind in package.KINDS}


def _about(folder: Path) -> dict[str, Any]:
    try:
        found = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
