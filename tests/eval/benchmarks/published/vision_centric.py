"""Vision-centric multiple choice: BLINK, MMStar, MMVP, RealWorldQA, CV-Bench, MME-RealWorld."""

from __future__ import annotations

from typing import Any

from tests.eval.benchmarks.published.table import Row, Table, base64_image, image


def _blink(task: str, number: int, drawings: int, **changes: Any) -> Row:
    images = {f"image_{at}": image(at) if at <= drawings else None for at in range(1, 5)}
    row = {
        "idx": f"val_{task}_{number}",
        "question": "How many blue floats are there?",
        "sub_task": task,
        **images,
        "choices": ["0", "3", "2", "1"],
        "answer": "(D)",
        "explanation": "",
    } | changes
    lines = "\n".join(f"({letter}) {choice}" for letter, choice in zip("ABCDE", row["choices"], strict=False))
    return row | {"prompt": f"{row['question']}\nSelect from the following choices.\n{lines}"}


BLINK = [
    _blink("Counting", 1, 1),
    _blink("Counting", 2, 1, choices=["two", "2"], answer="(A)"),
    _blink(
        "Visual_Similarity",
        1,
        3,
        question="Which is most like the reference?",
        choices=["the second image", "the third image"],
        answer="(B)",
    ),
    _blink("Jigsaw", 1, 4, question="Which fits?", choices=["the third image", "the fourth image"], answer="(A)"),
]

MMSTAR = [
    {
        "index": 0,
        "question": "Which option describe the object relationship in the image correctly?\n"
        'Options: A: The suitcase is on the book., B: The suitcase is beneath the cat., C: It\'s "off"., D: None',
        "image": image(1),
        "answer": "A",
        "category": "instance reasoning",
        "l2_category": "single-instance reasoning",
        "meta_info": {"source": "MMBench", "split": "val", "image_path": "images/0.jpg"},
    },
    {
        "index": 1,
        "question": "<image 1> How many?\nPlease answer yes or no. Options: A: 1, B: 2 ",
        "image": image(2),
        "answer": "B",
        "category": "math",
        "l2_category": "numeric commonsense and calculation",
        "meta_info": {"source": "MMMU", "split": "val", "image_path": "images/1.jpg"},
    },
]

VISUAL_PATTERNS = [
    ("Are the butterfly's wings closer to being open or closed?", "(a) Open (b) Closed", "(a)"),
    ("Are the butterfly's wings closer to being open or closed?", "(a) Open (b) Closed", "(b)"),
    ("Is there a hand using the mouse in this image?", "(a) Yes (b) No (it's on the desk)", "(b)"),
    ("Is there a hand using the mouse in this image?", "(a) Yes (b) No (it's on the desk)", "(a)"),
]
MMVP = [
    {"Index": number, "Question": question, "Options": options, "Correct Answer": answer, "image": image(number)}
    for number, (question, options, answer) in enumerate(VISUAL_PATTERNS, 1)
]

DIRECTLY = "Please answer directly with only the letter of the correct option and nothing else."
REALWORLDQA = [
    {
        "image": image(1),
        "image_path": "0.webp",
        "question": f"In which direction is the front wheel facing?\n\nA. Left\nB. Straight\nC. Right\n\n{DIRECTLY}",
        "answer": "A",
    },
    {
        "image": image(2),
        "image_path": "1.webp",
        "question": "How many cars are there?\nPlease answer directly with a single word or number.",
        "answer": "3",
    },
    {
        "image": image(3),
        "image_path": "2.webp",
        "question": "Is the road uphill or downhill?\nPlease answer directly with a single word or number. ",
        "answer": "Downhill",
    },
]


def _cv_bench(idx: int, kind: str, task: str, source: str, **changes: Any) -> Row:
    row = {
        "idx": idx,
        "type": kind,
        "task": task,
        "image": image(idx),
        "question": "How many organs are in the image?",
        "choices": ["3", "2", "1", "0"],
        "answer": "(C)",
    } | changes
    lines = "\n".join(f"({letter}) {choice}" for letter, choice in zip("ABCDEF", row["choices"], strict=False))
    return row | {
        "prompt": f"{row['question']} Select from the following choices.\n{lines}",
        "filename": f"img/{kind}/{task.lower()}/{source.lower()}/{idx}.png",
        "source": source,
        "source_dataset": f"{source} Dataset",
        "source_filename": f"{source}_{idx}.jpg",
        "target_class": "organ" if kind == "2D" else None,
        "target_size": 17 if kind == "2D" else None,
        "bbox": [[1.0, 2.0, 3.5, 4.0]],
    }


CV_BENCH_2D = [
    _cv_bench(0, "2D", "Count", "ADE20K"),
    _cv_bench(
        1,
        "2D",
        "Relation",
        "COCO",
        choices=["left", "right"],
        answer="(A)",
        question="Where is the cat, left or right?",
    ),
    _cv_bench(2, "2D", "Count", "COCO", choices=["5", "4", "3", "2", "1", "0"], answer="(F)"),
]
CV_BENCH_3D = [
    _cv_bench(
        3,
        "3D",
        "Depth",
        "Omni3D",
        question="Which is closer to the camera, the table (red box) or the bed (blue box)?",
        choices=["table", "bed"],
        answer="(B)",
    ),
    _cv_bench(
        4, "3D", "Distance", "Omni3D", question="Which is nearer to the lamp?", choices=["door", "books"], answer="(A)"
    ),
]


def _real_world(index: int, **changes: Any) -> Row:
    return {
        "bytes": base64_image(index),
        "path": f"remote_sensing/{index}.png",
        "index": index,
        "question": "What color is the car in the lower left?",
        "multi-choice options": [
            "(A) Red",
            "(B) Blue, light",
            "(C) Green",
            "(D) Black",
            "(E) This image doesn't feature the color.",
        ],
        "answer": "B",
        "category": "Perception/Remote Sensing",
        "l2-category": "color",
    } | changes


MME_REALWORLD = [
    _real_world(0),
    _real_world(1, answer="E", question="What is the number?", category="Reasoning/Monitoring"),
]

TEXT = "string"
TABLES: dict[str, list[Table]] = {
    "blink": [
        Table(
            f"{task}/val-00000-of-00001.parquet",
            {"idx": TEXT, "question": TEXT, "sub_task": TEXT}
            | {f"image_{number}": "image" for number in range(1, 5)}
            | {"choices": [TEXT], "answer": TEXT, "prompt": TEXT, "explanation": TEXT},
            [row for row in BLINK if row["sub_task"] == task],
        )
        for task in dict.fromkeys(row["sub_task"] for row in BLINK)
    ],
    "mmstar": [
        Table(
            "mmstar.parquet",
            {"index": "int64", "question": TEXT, "image": "image"}
            | dict.fromkeys(["answer", "category", "l2_category"], TEXT)
            | {"meta_info": dict.fromkeys(["source", "split", "image_path"], TEXT)},
            MMSTAR,
        )
    ],
    "mmvp": [
        Table(
            "data/train-00000-of-00001.parquet",
            {"Index": "int32", "Question": TEXT, "Options": TEXT, "Correct Answer": TEXT, "image": "image"},
            MMVP,
        )
    ],
    "realworldqa": [
        Table(
            "data/test-00000-of-00001.parquet",
            {"image": "image", "image_path": TEXT, "question": TEXT, "answer": TEXT},
            REALWORLDQA,
        )
    ],
    "cv_bench": [
        Table(
            f"test_{kind}.parquet",
            {"idx": "int64", "type": TEXT, "task": TEXT, "image": "image", "question": TEXT, "choices": [TEXT]}
            | dict.fromkeys(
                ["answer", "prompt", "filename", "source", "source_dataset", "source_filename", "target_class"], TEXT
            )
            | {"target_size": "int64", "bbox": [["float64"]]},
            rows,
        )
        for kind, rows in (("2d", CV_BENCH_2D), ("3d", CV_BENCH_3D))
    ],
    "mme_realworld": [
        Table(
            "data/train-00000-of-00001.parquet",
            {"bytes": TEXT, "path": TEXT, "index": "int64", "question": TEXT, "multi-choice options": [TEXT]}
            | dict.fromkeys(["answer", "category", "l2-category"], TEXT),
            MME_REALWORLD,
        )
    ],
}
