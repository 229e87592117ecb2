"""Benchmarks of short answers: GQA, ChartQA, OCRBench, TextVQA, DocVQA."""

from __future__ import annotations

from typing import Any

from tests.eval.benchmarks.published.table import Row, Table, image

TEXT = "string"


def _gqa(name: str, image_id: str, question: str, answer: str, **changes: Any) -> Row:
    return {
        "id": name,
        "imageId": image_id,
        "question": question,
        "isBalanced": True,
        "groups": {"global": None, "local": "06-bag_color"},
        "answer": answer,
        "fullAnswer": f"It is {answer}.",
        "entailed": "['201307251']",
        "equivalent": f"['{name}']",
        "types": {"structural": "query", "semantic": "attr", "detailed": "directOf"},
        "semantic": [{"operation": "select", "argument": "bag (1)", "dependencies": []}],
        "semanticStr": "select: bag (1)",
    } | changes


GQA = [
    _gqa("201307251", "n161313", "Is it overcast?", "no"),
    _gqa("201640614", "n161313", "Who is wearing the dress?", "woman"),
    _gqa("202225914", "n235859", "What's the man's hat made of, \"felt\" or straw?", "felt"),
]
GQA_IMAGES = [{"id": "n235859", "image": image(2)}, {"id": "n161313", "image": image(1)}]

CHARTQA = [
    {"type": "human_test", "question": "How many food items are shown?", "answer": "14", "image": image(1)},
    {"type": "human_test", "question": "What's the ratio (in %) of A to B? ", "answer": "12.5%", "image": image(2)},
    {"type": "augmented_test", "question": "Which year had 1,234 users?", "answer": "2,018", "image": image(3)},
    {"type": "augmented_test", "question": "Is the median above 0?", "answer": "Yes", "image": image(4)},
]


def _ocr(dataset: str, kind: str, question: str, answers: list[str], number: int) -> Row:
    return {
        "dataset": dataset,
        "question": question,
        "question_type": kind,
        "answer": answers,
        "image": image(number),
    }


FORMULA = "Please write out the expression of the formula in the image using LaTeX format."
OCRBENCH = [
    _ocr("IIIT5K", "Regular Text Recognition", "what is written in the image?", ["CENTRE"], 1),
    _ocr("DocVQA", "Doc-oriented VQA", "What is the Fax #?", ["(206) 555-1234", "2065551234"], 2),
    _ocr("HME100k", "Handwritten Mathematical Expression Recognition", FORMULA, ["\\frac { 1 } { 2 } x"], 3),
    _ocr(
        "SROIE",
        "Key Information Extraction",
        'what is the "total"? Answer this question using the text in the image directly.\n',
        ["ＲＭ 9.00"],
        4,
    ),
]


def _textvqa(number: int, question: str, answers: list[str], tokens: list[str]) -> Row:
    return {
        "image_id": f"003a8ae2ef43b90{number}",
        "question_id": 34602 + number,
        "question": question,
        "question_tokens": question.lower().rstrip("?").split(),
        "image": image(number),
        "image_width": 32,
        "image_height": 24,
        "flickr_original_url": "https://example.org/o.jpg",
        "flickr_300k_url": "https://example.org/z.jpg",
        "answers": answers,
        "image_classes": ["Camera", "Cassette deck"],
        "set_name": "val",
        "ocr_tokens": tokens,
    }


TEXTVQA = [
    _textvqa(
        0,
        "what is the brand of this camera?",
        ["dakota"] * 6 + ["dakota digital"] * 3 + ["clos culombu"],
        ["DAKOTA", "DIGITAL"],
    ),
    _textvqa(1, "What does 'NASA's' sign say in the USA?", ["don't"] * 5 + ["dont"] * 5, []),
    _textvqa(2, " is the price $4.99?", ["yes"] * 9 + ["4.99"], ["$4.99", "a, b"]),
]


def _docvqa(number: int, question: str, answers: list[str]) -> Row:
    return {
        "questionId": str(49153 + number),
        "question": question,
        "question_types": ["figure/diagram", "form"][: number + 1],
        "image": image(number),
        "docId": 14465 + number,
        "ucsf_document_id": "pybv0228",
        "ucsf_document_page_no": "81",
        "answers": answers,
        "data_split": "val",
    }


DOCVQA = [
    _docvqa(0, "What is the ‘actual’ value per 1000, during the year 1975?", ["0.28"]),
    _docvqa(1, "To whom is the letter addressed?", ["R. J. Reynolds", "Dr.  R.J. Reynolds "]),
]

TABLES: dict[str, list[Table]] = {
    "gqa": [
        Table(
            "testdev_balanced_instructions/testdev-00000-of-00001.parquet",
            {"id": TEXT, "imageId": TEXT, "question": TEXT, "isBalanced": "bool"}
            | {"groups": {"global": TEXT, "local": TEXT}, "answer": TEXT, "fullAnswer": TEXT, "entailed": TEXT}
            | {"equivalent": TEXT, "types": dict.fromkeys(["structural", "semantic", "detailed"], TEXT)}
            | {"semantic": [{"operation": TEXT, "argument": TEXT, "dependencies": ["int32"]}], "semanticStr": TEXT},
            GQA,
        ),
        Table("testdev_balanced_images/testdev-00000-of-00001.parquet", {"id": TEXT, "image": "image"}, GQA_IMAGES),
    ],
    "chartqa": [
        Table(
            "data/test-00000-of-00001.parquet",
            {"type": TEXT, "question": TEXT, "answer": TEXT, "image": "image"},
            CHARTQA,
        )
    ],
    "ocrbench": [
        Table(
            "data/test-00000-of-00001.parquet",
            {"dataset": TEXT, "question": TEXT, "question_type": TEXT, "answer": [TEXT], "image": "image"},
            OCRBENCH,
        )
    ],
    "textvqa": [
        Table(
            "data/validation-00000-of-00001.parquet",
            {"image_id": TEXT, "question_id": "int32", "question": TEXT, "question_tokens": [TEXT], "image": "image"}
            | {"image_width": "int32", "image_height": "int32", "flickr_original_url": TEXT, "flickr_300k_url": TEXT}
            | {"answers": [TEXT], "image_classes": [TEXT], "set_name": TEXT, "ocr_tokens": [TEXT]},
            TEXTVQA,
        )
    ],
    "docvqa": [
        Table(
            "DocVQA/validation-00000-of-00001.parquet",
            {"questionId": TEXT, "question": TEXT, "question_types": [TEXT], "image": "image", "docId": "int64"}
            | {"ucsf_document_id": TEXT, "ucsf_document_page_no": TEXT, "answers": [TEXT], "data_split": TEXT},
            DOCVQA,
        )
    ],
}
