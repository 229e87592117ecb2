"""Multiple-choice benchmarks: rows as published, with the cases that readers of them stumble over."""

from __future__ import annotations

from typing import Any

from tests.eval.benchmarks.published.table import Row, Table, image

NO_IMAGE = dict.fromkeys(f"image_{number}" for number in range(1, 8))
LETTERS = "ABCDEFGHI"


def _mmbench(index: int, rotation: int, drawing: int, **changes: Any) -> Row:
    """One rotation of a question: options move on by ``rotation``, and index by as many millions."""
    row = {
        "question": "Which is larger?",
        "hint": "nan",
        "options": ["the dog", "the cat"],
        "answer": "A",
        "category": "physical_relation",
        "L2-category": "relation_reasoning",
    } | changes
    options, moved = row.pop("options"), LETTERS.index(row["answer"])
    options = options[rotation:] + options[:rotation]
    texts = {letter: (options[at] if at < len(options) else "nan") for at, letter in enumerate("ABCD")}
    answer = LETTERS[(moved - rotation) % len(options)]
    index += rotation * 1_000_000
    shared = {"source": "reasoning", "comment": "nan", "split": "dev", "image": image(drawing)}
    return {"index": str(index)} | row | texts | {"answer": answer} | shared


PEOPLE = {
    "question": 'What does the sign say?\nRead it aloud: "…"',
    "hint": "The sign was made in 1904.\nIt is made of tin.",
    "options": ["Don't stop", 'the "old" way', "A. B. Smith's", "50% off, maybe"],
    "answer": "C",
    "category": "ocr",
    "L2-category": "finegrained_perception (instance-level)",
}
THREE = {
    "question": "How many?",
    "hint": "Count.",
    "options": ["1", "2.5", "three"],
    "answer": "B",
    "category": "count",
}
MMBENCH = [
    *(_mmbench(241, rotation, 1) for rotation in range(2)),
    *(_mmbench(252, rotation, 2, **PEOPLE) for rotation in range(4)),
    *(_mmbench(3, rotation, 3, **THREE) for rotation in range(3)),
]


def _seed(number: int, kind: str, images: list[int], **changes: Any) -> Row:
    row = {
        "answer": "A",
        "choice_a": "One",
        "choice_b": "Two",
        "choice_c": "Three",
        "choice_d": "None of the above",
        "question": "How many towels are in the image?",
    } | changes
    return row | {
        "data_id": f"{number}_{number}",
        "data_type": kind,
        "image": [image(drawing) for drawing in images],
        "question_id": ("v" if kind == "video" else "") + str(number),
        "question_type_id": 3,
        "segment": [10, 20] if kind == "video" else [],
    }


SEED = [
    _seed(101669, "image", [1]),
    _seed(101670, "image", [2], answer="D", choice_a="It's red.", choice_b='"Blue"', question="What colour is it"),
    _seed(1, "video", [3, 4, 5], question="What happens next?", answer="B"),
]


def _science(drawing: int | None, **changes: Any) -> Row:
    return {
        "image": None if drawing is None else image(drawing),
        "question": "Which of these states is farthest north?",
        "choices": ["West Virginia", "Louisiana", "Arizona", "Oklahoma"],
        "answer": 0,
        "hint": "",
        "task": "closed choice",
        "grade": "grade2",
        "subject": "social science",
        "topic": "geography",
        "category": "Geography",
        "skill": "Read a map: cardinal directions",
        "lecture": "Maps have four cardinal directions.",
        "solution": "To find the answer, look at the compass rose.",
    } | changes


SCIENCEQA = [
    _science(1),
    _science(
        2, choices=["yes", "no"], answer=1, hint="Use the data.\nAnswer the question below.", subject="natural science"
    ),
    _science(3, choices=["Ana's", "Leo's", "both", "neither", "it can't be told"], answer=4, hint=" "),
    _science(4, choices=["3.5 kg", "3 kg", "1/2 kg"], answer=2, question="Which is lightest? Choose ___."),
    _science(None, question="Which word is a noun?", choices=["run", "dog"], answer=1, subject="language science"),
]


def _mmmu(name: str, drawings: int, **changes: Any) -> Row:
    images = NO_IMAGE | {f"image_{number}": image(number) for number in range(1, drawings + 1)}
    return {
        "id": name,
        "question": "<image 1> Baxter Company has a relevant range between which units?",
        "options": "['$6', '$7', '$8', '$9']",
        "explanation": "",
        **images,
        "img_type": "['Tables']",
        "answer": "B",
        "topic_difficulty": "Medium",
        "question_type": "multiple-choice",
        "subfield": "Managerial Accounting",
    } | changes


MMMU = [
    _mmmu("validation_Accounting_1", 1),
    _mmmu(
        "validation_Art_Theory_2",
        2,
        question="Compare <image 1> with <image 2>. Whose work is the second?",
        options="[\"Manet's\", 'Degas', 'the \"Master of 1300\"', \"Don't know\", 'none']",
        answer="A",
    ),
    _mmmu(
        "validation_Music_11",
        5,
        question="Which of the following is the inversion of <image 1>?",
        options="['<image 2>', '<image 3>', '<image 4>', '<image 5>']",
        answer="C",
    ),
    _mmmu(
        "validation_Math_7",
        1,
        question="Find the area, in cm. <image 1>",
        options="[]",
        answer="['24/7', '3.429']",
        question_type="open",
    ),
    _mmmu(
        "validation_Physics_9",
        1,
        options="[]",
        answer="Smooth muscle",
        question_type="open",
        question="Name it:<image 1>",
    ),
    _mmmu("validation_Biology_3", 2, question="In <image 2>, see <image 1>?", options="['True', 'False']", answer="B"),
]

AI2D = [
    {"question": "which of these define dairy item", "options": ["c", "D", "b", "a"], "answer": "1", "image": image(1)},
    {
        "question": "What's the bird's prey?",
        "options": ["fox's cub", "mice", "0.5", "none"],
        "answer": "3",
        "image": image(2),
    },
    {"question": "From the above food web diagram, what is A", "options": ["A", "B"], "answer": "0", "image": image(3)},
]


TEXT = "string"
TABLES: dict[str, list[Table]] = {
    "mmbench": [
        Table(
            "en/dev-00000-of-00001.parquet",
            dict.fromkeys(["index", "question", "hint", "answer", "A", "B", "C", "D", "category"], TEXT)
            | {"image": "image"}
            | dict.fromkeys(["source", "L2-category", "comment", "split"], TEXT),
            MMBENCH,
        )
    ],
    "seed": [
        Table(
            "data/test-00000-of-00001.parquet",
            dict.fromkeys(["answer", "choice_a", "choice_b", "choice_c", "choice_d", "data_id", "data_type"], TEXT)
            | {
                "question": TEXT,
                "question_id": TEXT,
                "question_type_id": "int16",
                "image": ["image"],
                "segment": ["int64"],
            },
            SEED,
        )
    ],
    "scienceqa": [
        Table(
            "ScienceQA-IMG/test-00000-of-00001.parquet",
            {"image": "image", "question": TEXT, "choices": [TEXT], "answer": "int8"}
            | dict.fromkeys(
                ["hint", "task", "grade", "subject", "topic", "category", "skill", "lecture", "solution"], TEXT
            ),
            SCIENCEQA,
        )
    ],
    "mmmu": [
        Table(
            "data/validation-00000-of-00001.parquet",
            dict.fromkeys(["id", "question", "options", "explanation"], TEXT)
            | dict.fromkeys(NO_IMAGE, "image")
            | dict.fromkeys(["img_type", "answer", "topic_difficulty", "question_type", "subfield"], TEXT),
            MMMU,
        )
    ],
    "ai2d": [
        Table(
            "data/test-00000-of-00001.parquet",
            {"question": TEXT, "options": [TEXT], "answer": TEXT, "image": "image"},
            AI2D,
        )
    ],
}
