"""Answered questions of the benchmarks that count groups of answers, made up with a seed: some are read by no rule."""

from __future__ import annotations

import random
from typing import Any

Row = dict[str, Any]
SAID = [
    "Yes",
    "No",
    "yes",
    "no.",
    "Yes.",
    "Yes, it is.",
    "No, it is not.",
    "Not at all.",
    "Yes and no",
    "",
    "I cannot tell",
]
PERCEPTION = ["existence", "count", "position", "color", "posters", "celebrity", "scene", "landmark", "artwork", "OCR"]
COGNITION = ["commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning"]
KINDS = ("adversarial", "popular", "random")
TYPES = {
    "Regular Text Recognition": "CENTRE",
    "Irregular Text Recognition": "exit",
    "Artistic Text Recognition": "Coca Cola",
    "Handwriting Recognition": "the end",
    "Digit String Recognition": "2018",
    "Non-Semantic Text Recognition": "kbtq",
    "Scene Text-centric VQA": "main st.",
    "Doc-oriented VQA": "1,234",
    "Key Information Extraction": "RM 9.00",
    "Handwritten Mathematical Expression Recognition": "\\frac { A } { b }",
}


def _said(rng: random.Random, gold: str) -> str:
    """The correct answer more often than not, in some form."""
    fitting = [text for text in SAID if text.lower().startswith(gold.lower())]
    return rng.choice([*fitting, *fitting, *SAID])


def mme() -> list[Row]:
    """Three images a category; the two questions about one are adjacent, as Cambrian's scorer needs them."""
    rng = random.Random("mme")
    return [
        {"category": category, "image": f"{number}.png", "answer": answer, "said": _said(rng, answer)}
        for category in PERCEPTION + COGNITION
        for number in range(3)
        for answer in ("Yes", "No")
    ]


def pope() -> list[Row]:
    """Questions of one to three kinds."""
    rng = random.Random("pope")
    rows = []
    for number in range(60):
        kinds = [kind for kind in KINDS if rng.random() < 0.5] or ["random"]
        answer = rng.choice(["Yes", "No"])
        rows.append(
            {"category": ",".join(kinds), "image": str(number // 4), "answer": answer, "said": _said(rng, answer)}
        )
    return rows


def hallusionbench() -> list[Row]:
    """Questions with an image; sets, figures and questions of the two subcategories "ocr" have the same numbers."""
    rng = random.Random("hallusionbench")
    rows = []
    for category, subcategory in (("VD", "illusion"), ("VD", "ocr"), ("VS", "ocr"), ("VS", "chart")):
        for group in range(4):
            for figure in range(1 if category == "VS" else 0, 3):
                for question in range(2):
                    answer = rng.choice(["Yes", "No"])
                    rows.append(
                        {"category": category, "subcategory": subcategory, "set_id": str(group)}
                        | {"figure_id": str(figure), "question_id": str(question), "visual_input": "1"}
                        | {"answer": answer, "said": rng.choice([_said(rng, answer), answer])}
                    )
    rng.shuffle(rows)
    return rows


def naturalbench() -> list[Row]:
    """Groups of four in the order of their index, of both kinds."""
    rng = random.Random("naturalbench")
    rows = []
    for group in range(30):
        kind = ("yes_no", "multiple_choice")[group % 3 == 2]
        for at, answer in enumerate(("Yes", "No", "No", "Yes") if kind == "yes_no" else "ABBA"):
            said = _said(rng, answer) if kind == "yes_no" else rng.choice([answer, answer, "A", "(b)", "a cup, B", "C"])
            rows.append({"index": 4 * group + at, "type": kind, "answer": answer, "said": rng.choice([answer, said])})
    return rows


def ocrbench() -> list[Row]:
    """Six questions a type."""
    rng = random.Random("ocrbench")
    rows = []
    for category, text in TYPES.items():
        said = [text, text.lower(), text.upper(), text.replace(" ", ""), f"It says {text}!", "", text[:-1]]
        rows += [{"category": category, "answer": [text, f"{text}?"], "said": rng.choice(said)} for _ in range(6)]
    return rows


ROWS = {make.__name__: make() for make in (mme, pope, hallusionbench, naturalbench, ocrbench)}
