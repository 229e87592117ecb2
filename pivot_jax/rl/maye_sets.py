"""MAYE's data sets, made from the published ones that it was made from.

MAYE trains on ``mm_math5k`` (MM_Math) and ``geometry3k``, and tests the former on a sample of MathVerse. How its 5,000
and 100 problems were chosen is not published, so a choice here is one by seed among the problems whose answer is a
number ("all problems are numerical computation tasks"). Sizes are the paper's (Table 1).

What is read of the folder of sources, as the hub has it:

    DIR/MM_Math/MM_Math.jsonl     question, file_name, solution; its images anywhere below DIR/MM_Math
    DIR/geometry3k/**/*.parquet   hiyouga/geometry3k: images, problem, answer; splits train, validation, test
    DIR/MathVerse/testmini.parquet   problem_index, problem_version, question, question_type, answer, image

What is written: ``NAME_v0.jsonl`` with MAYE's records, ``images/``, and ``about.json`` with counts, hashes, and how
many held-out images are also training images.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pivot_jax import files
from pivot_jax.data.draws import draw
from pivot_jax.data.processing.images import load
from pivot_jax.data.sources.rows import need, open_rows, row_id_of
from pivot_jax.errors import RowError, UserError
from pivot_jax.eval.scoring import units
from pivot_jax.eval.scoring.equality import gold_value
from pivot_jax.progress import progress
from pivot_jax.words import counted

ABOUT = "about.json"
MATHVERSE_VERSION = "Text Dominant"  # of a problem's six, the one nearest to MM_Math, whose text says most
# Output → number of problems in the paper.
SIZES = {
    "mm_math_rl": 5000, "mm_math_validation": 100, "math_verse_test": 100,
    "geometry3k_rl": 2101, "geometry3k_validation": 300, "geometry3k_test": 601,
}  # fmt: skip
PARTS = (  # training, then what is held out
    ("mm_math_rl", "mm_math_validation", "math_verse_test"),
    ("geometry3k_rl", "geometry3k_validation", "geometry3k_test"),
)

_NUMERIC = re.compile(r"\\d?frac|\\sqrt|\\pi|π")  # letters that a number may have


@dataclass(frozen=True)
class Problem:
    """A problem before it is written; ``image`` is any reference that ``images.load`` takes."""

    id: str
    question: str
    answer: str
    solution: str
    image: Any


def prepare(source: str | Path, out: str | Path, seed: int = 0, *, overwrite: bool = False) -> dict[str, Any]:
    """Writes what the sources allow; returns the content of about.json.

    The same sources and seed give the same bytes.

    Raises:
      UserError: none of the sources, too few problems with a number for an answer, a row or an image that cannot be
        read, or ``out`` holds other files.
    """
    source, out = Path(source), Path(out)
    files.check_folder(out, overwrite=overwrite)
    found: dict[str, list[Problem]] = {}
    if (source / "MM_Math").is_dir():
        found |= _mm_math(source / "MM_Math", seed)
    if (source / "MathVerse").is_dir():
        problems = _math_verse(source / "MathVerse")
        found["math_verse_test"] = _drawn(problems, SIZES["math_verse_test"], seed, "MathVerse")
    if (source / "geometry3k").is_dir():
        found |= _geometry3k(source / "geometry3k")
    if not found:
        raise UserError(f"{source}: no folder MM_Math, MathVerse or geometry3k in it; download one of them there")
    with files.whole_folder(out, overwrite=overwrite) as into:
        pixels = {name: _write(into, name, problems) for name, problems in found.items()}
        about = {
            "seed": seed,
            "rows": {name: len(problems) for name, problems in found.items()},
            "paper": {name: SIZES[name] for name in found},
            "sha256": {name: _sha256((into / f"{name}_v0.jsonl").read_bytes()) for name in found},
            "images_sha256": {name: _sha256("".join(own).encode()) for name, own in pixels.items()},
            "test_images_in_training": _overlaps(pixels),
        }
        files.write_text(into / ABOUT, json.dumps(about, indent=1) + "\n")
    return about


def _mm_math(folder: Path, seed: int) -> dict[str, list[Problem]]:
    rows, images = open_rows(folder / "MM_Math.jsonl"), {path.name: path for path in folder.rglob("*.*")}
    problems = []
    for index in range(len(rows)):
        row = rows[index]
        where = f"{folder / 'MM_Math.jsonl'}, {row_id_of(row, rows, index)}"
        name, solution = need(row, "file_name", str, where), need(row, "solution", str, where)
        answer = gold_value(solution)
        if answer is None or not _is_number(answer):
            continue
        if name not in images:
            raise RowError(where, f"image {name} is not below {folder}; unpack Image.zip there")
        problems.append(Problem(name, need(row, "question", str, where), answer, solution, images[name]))
    drawn = _drawn(problems, SIZES["mm_math_rl"] + SIZES["mm_math_validation"], seed, "MM_Math")
    held_out = SIZES["mm_math_validation"]
    return {"mm_math_rl": drawn[held_out:], "mm_math_validation": drawn[:held_out]}


def _math_verse(folder: Path) -> list[Problem]:
    rows, problems = open_rows(folder / "testmini.parquet"), []
    for index in range(len(rows)):
        row, where = rows[index], f"{folder / 'testmini.parquet'}, row {index}"
        answer = str(need(row, "answer", (str, int, float), where))
        kind = row.get("problem_version"), row.get("question_type")
        if kind == (MATHVERSE_VERSION, "free-form") and _is_number(answer):
            name = f"{row.get('problem_index', index)}"
            image = need(row, "image", dict, where)
            problems.append(Problem(name, need(row, "question", str, where), answer, rf"\boxed{{{answer}}}", image))
    return problems


def _geometry3k(folder: Path) -> dict[str, list[Problem]]:
    found = {}
    for split, name in (("train", "rl"), ("validation", "validation"), ("test", "test")):
        rows, problems = open_rows(folder, split), []
        for index in range(len(rows)):
            row, where = rows[index], f"{folder}, {split}, row {index}"
            answer = need(row, "answer", str, where)
            images, text = need(row, "images", list, where), need(row, "problem", str, where)
            if len(images) != 1:
                raise RowError(where, f"{counted(len(images), 'image')}; a problem of geometry3k has one")
            problems.append(Problem(f"{split}_{index}", text, answer, rf"\boxed{{{answer}}}", images[0]))
        found[f"geometry3k_{name}"] = problems
    return found


def _is_number(answer: str) -> bool:
    """Whether an answer has digits and no unknown: a number, a root, a fraction, with a unit or without."""
    value, _ = units.split(answer)
    letters = _NUMERIC.sub("", value)
    return any(one.isdigit() for one in value) and not any(one.isalpha() for one in letters)


def _drawn(problems: Sequence[Problem], count: int, seed: int, what: str) -> list[Problem]:
    """``count`` of the problems in an order that depends on seed and content alone."""
    if len(problems) < count:
        raise UserError(f"{what}: {len(problems):,} problems have a number for an answer, and {count:,} are needed")
    return sorted(problems, key=lambda one: (draw(seed, one.id, one.question), one.id))[:count]


def _write(into: Path, name: str, problems: Sequence[Problem]) -> list[str]:
    """Writes records and images; returns the SHA-256 of each image's pixels."""
    folder = into / "images" / name
    folder.mkdir(parents=True)
    pixels, lines = [], []
    with progress(f"writing {name}", len(problems)) as advance:
        for one in problems:
            image = load(one.image)
            pixels.append(_sha256(np.asarray(image).tobytes()))
            path = folder / f"{Path(one.id).stem}.png"
            packed = io.BytesIO()
            image.save(packed, format="PNG")
            path.write_bytes(packed.getvalue())
            row = {"question": one.question, "answer": one.answer, "solution": one.solution, "id": one.id}
            lines.append(json.dumps(row | {"image": str(path.relative_to(into))}, ensure_ascii=False) + "\n")
            advance()
    files.write_text(into / f"{name}_v0.jsonl", "".join(lines))
    return pixels


def _overlaps(pixels: Mapping[str, Sequence[str]]) -> dict[str, int]:
    """Held-out part → how many of its images are in the training part too."""
    found: dict[str, int] = {}
    for train, *held_out in PARTS:
        seen = set(pixels.get(train, ()))
        found |= {name: sum(one in seen for one in pixels[name]) for name in held_out if seen and name in pixels}
    return found


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
