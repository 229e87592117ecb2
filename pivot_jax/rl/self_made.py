"""Training data from a model's own responses: the right ones (rejection sampling), and pairs of right and wrong.

    DIR/right.jsonl   SFT: question and a right response, TRL's prompt and completion
    DIR/pairs.jsonl   DPO: questions that have both, with chosen and rejected
    DIR/about.json    numbers of questions and rows, hashes

A row has the images that the log names. Where these are thumbnails, or none, ``responses`` of a data source gives the
same texts with the images of the prompts' own source (:class:`pivot_jax.data.sources.responses.Responses`).

Questions that were never answered right are in neither file, so data made like this are easier than the prompts that
they come from; about.json says how many are left out.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pivot_jax import files
from pivot_jax.data.draws import draw
from pivot_jax.data.sources.responses import ROW
from pivot_jax.errors import UserError
from pivot_jax.rl.scheme.logs import Response, read
from pivot_jax.rl.scheme.reading import DEFAULT, Settings

RIGHT, PAIRS, ABOUT = "right.jsonl", "pairs.jsonl", "about.json"


@dataclass
class _Question:
    """A question with the texts of its different responses, in the log's order."""

    asked: Response
    right: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)


def write(
    log: str | Path, out: Path, settings: Settings = DEFAULT, *, most: int = 1, seed: int = 0, overwrite: bool = False
) -> dict[str, Any]:
    """Writes the data and returns the content of about.json. The same log, seed and settings give the same bytes.

    Args:
      log: of responses, in a format of ``scheme.logs``.
      settings: how it is read, and which responses are right.
      most: rows of a question in each file. Which responses they have is drawn by seed.

    Raises:
      UserError: as ``scheme.logs.read``, a response that cannot be judged, none that is right, or ``out`` holds other
        files.
    """
    files.check_folder(out, overwrite=overwrite)
    questions, responses = _by_question(log, settings)
    right = [row for one in questions for row in _rows(one, most, seed, pairs=False)]
    pairs = [row for one in questions for row in _rows(one, most, seed, pairs=True)]
    if not right:
        raise UserError(f"{log}: none of its {responses:,} responses is right, so there is nothing to learn from them")
    texts = {name: "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
             for name, rows in ((RIGHT, right), (PAIRS, pairs))}  # fmt: skip
    about = {
        "log": Path(log).name,
        "judge": settings.scoring.judge,
        "seed": seed,
        "questions": len(questions),
        "responses": responses,
        "answered_right": sum(bool(one.right) for one in questions),
        "answered_both_ways": sum(bool(one.right and one.wrong) for one in questions),
        "rows": {RIGHT: len(right), PAIRS: len(pairs)},
        "sha256": {name: hashlib.sha256(text.encode()).hexdigest() for name, text in texts.items()},
    }
    with files.whole_folder(out, overwrite=overwrite) as into:
        for name, text in texts.items():
            files.write_text(into / name, text)
        files.write_text(into / ABOUT, json.dumps(about, indent=1) + "\n")
    return about


def _by_question(log: str | Path, settings: Settings) -> tuple[list[_Question], int]:
    found: dict[str, _Question] = {}
    count = 0
    for one in read(log, settings.log):
        right = settings.scoring.is_right(one)
        count += 1
        question = found.setdefault(one.question, _Question(one))
        texts = question.right if right else question.wrong
        if one.text not in texts and not one.truncated:
            texts.append(one.text)
    return list(found.values()), count


def _rows(one: _Question, most: int, seed: int, *, pairs: bool) -> Iterable[dict[str, Any]]:
    asked_for = one.asked.question
    right, wrong = (sorted(texts, key=lambda text: draw(seed, asked_for, text)) for texts in (one.right, one.wrong))
    asked = {"images": list(one.asked.images), "prompt": one.asked.prompt or asked_for}
    for index in range(min(most, len(right), len(wrong) if pairs else most)):
        own = {"chosen": right[index], "rejected": wrong[index]} if pairs else {"completion": right[index]}
        yield {"id": asked_for + (f"#{index}" if most > 1 else ""), ROW: asked_for} | asked | own
