"""The same questions as VLMEvalKit's TSV files hold them: options in columns A, B, …, images as base64 text.

A cell is text; "" is a missing value. The i-th row of a file is the i-th row of the published table, rows without an
image left out. An image that another row holds is that row's index, several images are a list literal.
"""

from __future__ import annotations

import ast
import base64
from collections.abc import Callable, Iterable
from typing import Any

from tests.eval.benchmarks.published import captions, mathematics, options, short_answers, vision_centric, yes_no
from tests.eval.benchmarks.published.table import Row, base64_image

TsvRow = dict[str, str]


def _text(cell: dict[str, Any] | None) -> str:
    return "" if cell is None else base64.b64encode(cell["bytes"]).decode()


def _columns(texts: Iterable[str]) -> TsvRow:
    return dict(zip("ABCDEFGHI", texts, strict=False))


def _rows(rows: Iterable[Row], convert: Callable[[Row], TsvRow]) -> list[TsvRow]:
    """Rows with an index, all with the same columns."""
    written = [{"index": str(at)} | convert(row) for at, row in enumerate(rows)]
    columns = dict.fromkeys(name for row in written for name in row)
    return [dict.fromkeys(columns, "") | row for row in written]


def _mmbench() -> list[TsvRow]:
    """Rotated rows hold the index of the unrotated row in place of its image."""
    written = []
    for row in options.MMBENCH:
        cells = {name: "" if row[name] == "nan" else row[name] for name in row if name not in ("image", "L2-category")}
        index = int(row["index"])
        reference = str(index % 1_000_000)
        cells["image"] = _text(row["image"]) if index < 1_000_000 else reference
        written.append(cells | {"l2-category": row["L2-category"]})
    return written


def _mmmu(row: Row) -> TsvRow:
    drawings = [_text(row[f"image_{number}"]) for number in range(1, 8) if row[f"image_{number}"]]
    return {
        "id": row["id"],
        "question": row["question"],
        "image": drawings[0] if len(drawings) == 1 else repr(drawings),
        "answer": row["answer"],
        "category": row["id"].split("_", 1)[1].rsplit("_", 1)[0],
        "split": "validation",
        "question_type": row["question_type"],
    } | _columns(ast.literal_eval(row["options"]))


def _blink(row: Row) -> TsvRow:
    drawings = [_text(row[f"image_{number}"]) for number in range(1, 5) if row[f"image_{number}"]]
    cells = {"question": row["question"], "answer": row["answer"].strip("()"), "category": row["sub_task"]}
    return cells | {"image": drawings[0] if len(drawings) == 1 else repr(drawings)} | _columns(row["choices"])


def _mmstar(row: Row) -> TsvRow:
    question, _, listed = row["question"].partition("Options: ")
    texts = [part.partition(": ")[2] for part in listed.strip().split(", ") if part[1:2] == ":"]
    return (
        _same(row, "answer", "category", **{"l2-category": row["l2_category"]})
        | _columns(texts)
        | {"question": question.strip()}
    )


def _same(row: Row, *names: str, **more: str) -> TsvRow:
    """The named columns and the image, as they are."""
    drawing = row.get("image") or row.get("Image") or row.get("decoded_image")
    cells = {name.lower(): str(row[name]) for name in names} | more
    return cells | ({"image": _text(drawing)} if isinstance(drawing, dict) else {})


def _realworld(row: Row) -> TsvRow:
    lines = row["question"].split("\n")
    listed = [line[3:] for line in lines if line[1:3] == ". "]
    if listed:
        return _same(row, "answer", question=lines[0]) | _columns(listed)
    return _same(row, question=lines[0], answer="A") | _columns([row["answer"], "none"])


def _math(row: Row) -> TsvRow:
    choices = row["choices"] or []
    letter = "ABCDEFGH"[choices.index(row["answer"])] if choices else ""
    more = {"answer_option": letter, "choices": repr(choices), "task": row["metadata"]["task"]}
    more |= {"skills": repr(row["metadata"]["skills"]), "question": row["query"]}
    numbers = {name: "" if row[name] is None else str(row[name]) for name in ("precision", "unit")}
    return (
        _same(row, "question_type", "answer_type", "answer") | more | numbers | {"image": _text(row["decoded_image"])}
    )


def _hallusion() -> list[TsvRow]:
    written = []
    for row in yes_no.HALLUSION_IMAGE:
        parts = (row["category"], row["subcategory"], row["set_id"], row["figure_id"], row["question_id"])
        cells = _same(row, "question", "category", answer="Yes" if row["gt_answer"] == "1" else "No")
        written.append({"index": "_".join((parts[0], parts[1], "x", *parts[2:]))} | cells | {"l2-category": parts[1]})
    return written


TSV: dict[str, list[TsvRow]] = {
    "mme": _rows(yes_no.MME, lambda r: _same(r, "question", "answer", "category", image_path=r["question_id"])),
    "mmbench": _mmbench(),
    "seed": _rows(
        [row for row in options.SEED if row["data_type"] == "image"],
        lambda r: (
            _same(r, "question", "answer", category="Instance Counting")
            | {"image": _text(r["image"][0])}
            | _columns(r[f"choice_{letter}"] for letter in "abcd")
        ),
    ),
    "gqa": _rows(
        short_answers.GQA,
        lambda r: (
            _same(r, "question", "answer")
            | {
                "image": _text(
                    next(found["image"] for found in short_answers.GQA_IMAGES if found["id"] == r["imageId"])
                )
            }
        ),
    ),
    "scienceqa": _rows(
        [row for row in options.SCIENCEQA if row["image"]],
        lambda r: _same(r, "question", "hint", "category", answer="ABCDE"[r["answer"]]) | _columns(r["choices"]),
    ),
    "mmmu": _rows(options.MMMU, _mmmu),
    "mathvista": _rows(mathematics.MATHVISTA, _math),
    "ai2d": _rows(
        options.AI2D, lambda r: _same(r, "question", answer="ABCD"[int(r["answer"])]) | _columns(r["options"])
    ),
    "chartqa": _rows(
        short_answers.CHARTQA,
        lambda r: _same(r, "question", answer=repr([r["answer"]]), split=f"test_{r['type'][:-5]}"),
    ),
    "ocrbench": _rows(
        short_answers.OCRBENCH,
        lambda r: _same(r, "question", answer=repr(r["answer"]), category=r["question_type"]),
    ),
    "textvqa": _rows(short_answers.TEXTVQA, lambda r: _same(r, "question", answer=repr(r["answers"]))),
    "docvqa": _rows(short_answers.DOCVQA, lambda r: _same(r, "question", answer=repr(r["answers"]))),
    "mmvp": _rows(
        vision_centric.MMVP,
        lambda r: (
            _same(r, "Question", answer="AB"[r["Correct Answer"] == "(b)"])
            | _columns(part.strip() for part in r["Options"].removeprefix("(a)").split("(b)"))
        ),
    ),
    "realworldqa": _rows(vision_centric.REALWORLDQA, _realworld),
    "cv_bench_2d": _rows(
        vision_centric.CV_BENCH_2D,
        lambda r: (
            _same(r, "question", "prompt", "task", "source", answer=r["answer"].strip("()"), split=r["type"])
            | _columns(r["choices"])
        ),
    ),
    "cv_bench_3d": _rows(
        vision_centric.CV_BENCH_3D,
        lambda r: (
            _same(r, "question", "prompt", "task", "source", answer=r["answer"].strip("()"), split=r["type"])
            | _columns(r["choices"])
        ),
    ),
    "pope": _rows(
        yes_no.POPE,
        lambda r: _same(r, "question", answer=r["answer"].capitalize(), category=f"{r['category']},random"),
    ),
    "hallusionbench": _hallusion(),
    "naturalbench": _rows(yes_no.NATURALBENCH, lambda r: _same(r, "Question", "Answer", type=r["Question_Type"])),
    "mme_realworld": _rows(
        vision_centric.MME_REALWORLD,
        lambda r: (
            _same(r, "question", "answer", "category", "l2-category", image=base64_image(r["index"]))
            | {"multi-choice options": "The choices are listed below:\n" + "\n".join(r["multi-choice options"])}
            | _columns(text[4:] for text in r["multi-choice options"])
        ),
    ),
    "vl_rewardbench": _rows(
        yes_no.VL_REWARDBENCH,
        lambda r: _same(r, "id", question=r["query"], response=repr(r["response"]), answer=repr(r["human_ranking"])),
    ),
    "blink": _rows(vision_centric.BLINK, _blink),
    "mmstar": _rows(vision_centric.MMSTAR, _mmstar),
    "mathverse": _rows(
        mathematics.MATHVERSE,
        lambda r: _same(r, "answer", "question_type", "query_cot", "question_for_eval", question=r["query_wo"]),
    ),
    "mathvision": _rows(
        mathematics.MATHVISION,
        lambda r: (
            _same(r, "question", "answer", choices=repr(r["options"]), category=r["subject"])
            | {"image": _text(r["decoded_image"])}
        ),
    ),
    "mm_math": _rows(
        mathematics.MM_MATH,
        lambda r: (
            {"question": r["question"], "image": base64_image(1), "difficulty": r["difficult"], "year": r["year"]}
            | {"answer": r["solution"].split("\\boxed{", 1)[1].rsplit("}", 1)[0]}
            | dict(zip(("knowledge_l1", "knowledge_l2"), r["knowledge"].split("_", 1), strict=True))
        ),
    ),
    "coco_captions": _rows(captions.COCO, lambda r: _same(r, answer=repr(r["answer"]))),
}
TSV["mme"][2]["image"] = "0"  # the two questions about one image
TSV["pope"][1]["image"] = "0"
