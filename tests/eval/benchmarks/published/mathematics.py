"""Mathematics: MathVista, MathVerse, MATH-Vision, Geometry3K, MM-Math."""

from __future__ import annotations

from typing import Any

from tests.eval.benchmarks.published.table import Row, Table, image

TEXT = "string"
HINT = "Hint: Please answer the question requiring an integer answer and provide the final value, e.g., 1, 2."
LETTER_HINT = "Hint: Please answer the question and provide the correct option letter, e.g., A, B, C, D, at the end."


def _mathvista(number: int, **changes: Any) -> Row:
    row = {
        "pid": str(number),
        "question": "When a spring does work on an object, we cannot find the work by simply multiplying.",
        "image": f"images/{number}.jpg",
        "decoded_image": image(number),
        "choices": None,
        "unit": None,
        "precision": None,
        "answer": "3",
        "question_type": "free_form",
        "answer_type": "integer",
        "metadata": {
            "category": "math-targeted-vqa",
            "context": "scientific figure",
            "grade": "college",
            "img_height": 24,
            "img_width": 32,
            "language": "english",
            "skills": ["scientific reasoning"],
            "source": "SciBench",
            "split": "testmini",
            "task": "textbook question answering",
        },
    } | changes
    choices = "\n".join(f"({letter}) {text}" for letter, text in zip("ABCDEF", row["choices"] or [], strict=False))
    query = f"{LETTER_HINT if choices else HINT}\nQuestion: {row['question']}"
    query += f" (Unit: {row['unit']})" if row["unit"] else ""
    return row | {"query": query + (f"\nChoices:\n{choices}" if choices else "")}


MATHVISTA = [
    _mathvista(1, answer="1.2", answer_type="float", precision=1.0, unit="m/s"),
    _mathvista(2, choices=["Yes", "No"], question_type="multi_choice", answer_type="text", answer="No"),
    _mathvista(
        3,
        question="Find $m\\angle H$",
        choices=["97", "102", "107", "122.5"],
        question_type="multi_choice",
        answer_type="text",
        answer="122.5",
    ),
    _mathvista(4, answer="[1, 2]", answer_type="list", question="Which two are largest?"),
    _mathvista(5, answer="0.85", answer_type="float", precision=2.0, question="What's the ratio?"),
    _mathvista(6),
]


def _mathverse(number: int, version: str, **changes: Any) -> Row:
    row = {
        "sample_index": str(number),
        "problem_index": "1",
        "problem_version": version,
        "question": "As shown in the figure, in triangle ABC, find angle 2.\nChoices:\nA:10°\nB:20°\nC:30°\nD:40°",
        "image": image(number),
        "answer": "D",
        "question_type": "multi-choice",
        "metadata": {
            "split": "testmini",
            "source": "GeoQA",
            "subject": "Plane Geometry",
            "subfield": "Angle",
        },
    } | changes
    ask = "Please directly answer the question and provide the correct option letter, e.g., A, B, C, D."
    think = "Please first conduct reasoning, and then provide the correct option letter, e.g., A, B, C, D, at the end."
    return row | {
        "query_wo": f"{ask}\nQuestion: {row['question']}",
        "query_cot": f"{think}\nQuestion: {row['question']}",
        "question_for_eval": "In triangle ABC, find angle 2.",
    }


MATHVERSE = [
    _mathverse(1, "Text Dominant"),
    _mathverse(2, "Vision Only", question=""),
    _mathverse(3, "Text Lite", question="Find x's value.", answer="x = \\frac{1}{2}", question_type="free-form"),
    _mathverse(4, "Vision Intensive", answer="A,C"),
]


def _mathvision(number: int, **changes: Any) -> Row:
    return {
        "id": str(number),
        "question": "Which bike is most expensive?\n<image1>",
        "options": ["A", "B", "C", "D", "E"],
        "image": f"images/{number}.jpg",
        "decoded_image": image(number),
        "answer": "A",
        "solution": None,
        "level": 2,
        "subject": "arithmetic",
    } | changes


MATHVISION = [
    _mathvision(4),
    _mathvision(5, options=["$\\frac{1}{2}$", "0.25", "2", "3", "none"], answer="B", question="Find $a$."),
    _mathvision(6, options=[], answer="\\sqrt{2}", question="How long is it?\n<image1>", solution="By Pythagoras."),
]

GEOMETRY3K = [
    {
        "images": [image(1)],
        "problem": "<image>Chords $\\overline{AC}$ and $\\overline{DF}$ are equidistant. Find $AC$.",
        "answer": "8",
    },
    {"images": [image(2)], "problem": "<image>Find $x$.", "answer": "\\frac{1}{2}"},
]
GEOMETRY3K_CHOICES = [
    {
        "id": 2401 + number,
        "images": row["images"],
        "problem": row["problem"].removeprefix("<image>"),
        "choices": choices,
        "ground_truth": letter,
    }
    for number, (row, choices, letter) in enumerate(
        zip(GEOMETRY3K, (["2", "4", "8", "16"], ["\\frac{1}{2}", "2", "0.25", "1"]), "CA", strict=True)
    )
]

MM_MATH = [
    {
        "question": "As shown in the diagram, $AB=4$. Find the length of $BC$.",
        "file_name": "52942892.png",
        "solution": "\\textbf{Solution}: Thus, $BC = \\boxed{2\\sqrt{3}}$.",
        "year": "nine",
        "difficult": "medium",
        "knowledge": "Circle_Angle of circle",
    },
    {
        "question": "As shown, what's the degree of $\\angle 1$?",
        "file_name": "52942893.png",
        "solution": "\\textbf{Solution}: therefore $\\angle 1 = \\boxed{35^\\circ}$.",
        "year": "seven",
        "difficult": "easy",
        "knowledge": "Comprehension of Shapes_Angle",
    },
]

TABLES: dict[str, list[Table]] = {
    "mathvista": [
        Table(
            "data/testmini-00000-of-00001.parquet",
            {"pid": TEXT, "question": TEXT, "image": TEXT, "decoded_image": "image", "choices": [TEXT], "unit": TEXT}
            | {"precision": "float64", "answer": TEXT, "question_type": TEXT, "answer_type": TEXT}
            | {
                "metadata": dict.fromkeys(["category", "context", "grade"], TEXT)
                | {"img_height": "int64", "img_width": "int64", "language": TEXT, "skills": [TEXT]}
                | dict.fromkeys(["source", "split", "task"], TEXT)
            }
            | {"query": TEXT},
            MATHVISTA,
        )
    ],
    "mathverse": [
        Table(
            "testmini.parquet",
            dict.fromkeys(["sample_index", "problem_index", "problem_version", "question"], TEXT)
            | {"image": "image", "answer": TEXT, "question_type": TEXT}
            | {"metadata": dict.fromkeys(["split", "source", "subject", "subfield"], TEXT)}
            | dict.fromkeys(["query_wo", "query_cot", "question_for_eval"], TEXT),
            MATHVERSE,
        )
    ],
    "mathvision": [
        Table(
            "data/testmini-00000-of-00001.parquet",
            {"id": TEXT, "question": TEXT, "options": [TEXT], "image": TEXT, "decoded_image": "image"}
            | {"answer": TEXT, "solution": TEXT, "level": "int64", "subject": TEXT},
            MATHVISION,
        )
    ],
    "geometry3k": [
        Table("data/test-00000-of-00001.parquet", {"images": ["image"], "problem": TEXT, "answer": TEXT}, GEOMETRY3K)
    ],
    "geometry3k_choices": [
        Table(
            "data/test-00000-of-00001.parquet",
            {"id": "int64", "images": ["image"], "problem": TEXT, "choices": [TEXT], "ground_truth": TEXT},
            GEOMETRY3K_CHOICES,
        )
    ],
    "mm_math": [
        Table(
            "data/train-00000-of-00001.parquet",
            dict.fromkeys(["question", "file_name", "solution", "year", "difficult", "knowledge"], TEXT),
            MM_MATH,
        )
    ],
}
