"""Caption benchmarks: COCO captions (2017 val) and DetailCaps-4870."""

from __future__ import annotations

from tests.eval.benchmarks.published.table import Row, Table, image, png

TEXT = "string"


def _coco(number: int, references: list[str]) -> Row:
    name = f"{number:012d}.jpg"
    return {
        "question_id": name,
        "image": image(number),
        "question": "Please carefully observe the image and come up with a caption for the image",
        "answer": references,
        "id": number,
        "license": 3,
        "file_name": name,
        "coco_url": f"http://images.cocodataset.org/val2017/{name}",
        "height": 24,
        "width": 32,
        "date_captured": "2013-11-14 17:02:52",
    }


COCO = [
    _coco(
        139, ["A woman stands in the dining area at the table.", "A kitchen with chairs, a table, and a woman in it."]
    ),
    _coco(
        285,
        [
            "A big burly grizzly bear is shown with grass in the background.",
            "The large brown bear has a black nose.",
            "Bear's face",
        ],
    ),
]


def _detail(number: int) -> Row:
    captions = {
        "GT_Caption_GPT4O": "The image shows a red square.\n\nIt's plain.",
        "GT_Caption_GPT4V": "A plain red square.",
        "GT_Caption_Gemini15Pro": 'This is a square, "red".',
    }
    return {"image": f"detail_{number}.jpg", "binary": png(number), "source": "COCO"} | captions


DETAILCAPS = [_detail(1), _detail(2)]

TABLES: dict[str, list[Table]] = {
    "coco_captions": [
        Table(
            "data/val-00000-of-00001.parquet",
            {
                "question_id": TEXT,
                "image": "image",
                "question": TEXT,
                "answer": [TEXT],
                "id": "int64",
                "license": "int8",
            }
            | {"file_name": TEXT, "coco_url": TEXT, "height": "int32", "width": "int32", "date_captured": TEXT},
            COCO,
        )
    ],
    "detailcaps": [
        Table(
            "data/test-00000-of-00001.parquet",
            {"image": TEXT, "binary": "binary", "source": TEXT}
            | dict.fromkeys(["GT_Caption_GPT4O", "GT_Caption_GPT4V", "GT_Caption_Gemini15Pro"], TEXT),
            DETAILCAPS,
        )
    ],
}
