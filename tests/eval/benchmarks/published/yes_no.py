"""Yes/no benchmarks (MME, POPE, HallusionBench, NaturalBench) and VL-RewardBench, which are scored by groups."""

from __future__ import annotations

from tests.eval.benchmarks.published.table import Row, Table, image

TEXT = "string"


def _mme(name: str, question: str, answer: str, number: int) -> Row:
    category = name.partition("/")[0]
    return {
        "question_id": name,
        "image": image(number),
        "question": f"{question} Please answer yes or no.",
        "answer": answer,
        "category": category,
    }


# The two questions about an image share the question id; they are not adjacent here, so that order cannot pair them.
MME = [
    _mme("code_reasoning/0020.png", "Is a c++ code shown in the image?", "Yes", 1),
    _mme("existence/0001.jpg", "Is there an elephant in this image?", "No", 2),
    _mme("code_reasoning/0020.png", "Is a python code shown in the image? ", "No", 1),
    _mme("existence/0001.jpg", "Is there a bird in this image?", "Yes", 2),
]


def _pope(number: int, category: str, question: str, answer: str) -> Row:
    return {
        "id": str(number),
        "question_id": str(number // 2 + 1),
        "question": question,
        "answer": answer,
        "image_source": f"COCO_val2014_00000031056{number // 2}",
        "image": image(number // 2),
        "category": category,
    }


POPE = [
    _pope(0, "adversarial", "Is there a snowboard in the image?", "yes"),
    _pope(1, "adversarial", "Is there a backpack in the imange?", "no"),
    _pope(2, "popular", " Is there a person in the image?", "yes"),
    _pope(3, "random", "Is there a dining table in the image?", "no"),
]


def _hallusion(kind: str, figure: str, question: str, answer: str, number: int | None) -> Row:
    return {
        "category": kind,
        "subcategory": "illusion" if kind == "VD" else "chart",
        "visual_input": "0" if number is None else "1" if figure == "1" else "2",
        "set_id": "0",
        "figure_id": figure,
        "sample_note": "circle",
        "question_id": "0",
        "question": question,
        "gt_answer_details": "The right circle is the same size.",
        "gt_answer": answer,
        "filename": None if number is None else f"./hallusion_bench/{kind}/illusion/0_{figure}.png",
        "image": None if number is None else image(number),
    }


HALLUSION_IMAGE = [
    _hallusion("VD", "0", "Is the right orange circle the same size as the left orange circle?", "1", 1),
    _hallusion("VD", "1", "Is the right orange circle the same size as the left orange circle?", "0", 2),
    _hallusion("VS", "1", "According to the image, is China's share more than 50%? ", "0", 3),
]
HALLUSION_TEXT = [_hallusion("VS", "0", "Is China's share more than 50%?", "1", None)]


def _natural(index: int, question: str, answer: str, kind: str = "yes_no") -> Row:
    group = index // 4
    return {
        "Index": index,
        "Image": image(2 * group + index % 2),
        "Question": question,
        "Answer": answer,
        "Question_Type": kind,
        "Source": "Flickr30K",
    }


ASKED = ("Are the two people on a boat?", "Is the sun's light low?")
CHOSEN = ("What is he holding?\nOption: A: A cup; B: A book;", "Who is it?\nOption: A: a man; B: a woman;")
NATURALBENCH = [
    *(_natural(at, ASKED[at // 2], ("Yes", "No", "No", "Yes")[at]) for at in range(4)),
    *(_natural(4 + at, CHOSEN[at // 2], ("A", "B", "B", "A")[at], "multiple_choice") for at in range(4)),
]


def _reward(name: str, query: str, responses: list[str], ranking: list[int], number: int) -> Row:
    return {
        "id": name,
        "query": query,
        "response": responses,
        "image": image(number),
        "human_ranking": ranking,
        "models": ["GPT-4V", "LLaVA-NeXT"],
        "judge": [],
        "rationale": [],
        "query_source": name.partition("-")[0],
        "ground_truth": None,
        "human_error_analysis": "",
    }


# The prompt's order follows the summed length of the responses: one odd, one even.
VL_REWARDBENCH = [
    _reward("RLAIF-V-0", "What's in the image?", ["A red car.", 'Two cars, "parked".'], [0, 1], 1),
    _reward("mathverse_12", "Find x.\nGive steps.", ["x = 3", "x = 41"], [1, 0], 2),
    _reward("wildvision-battle-4", "Describe {it}.", ["It's a dog.\n\nIndeed.", "A cat"], [1, 0], 3),
]

TABLES: dict[str, list[Table]] = {
    "mme": [
        Table(
            "data/test-00000-of-00001.parquet",
            {"question_id": TEXT, "image": "image", "question": TEXT, "answer": TEXT, "category": TEXT},
            MME,
        )
    ],
    "pope": [
        Table(
            "data/test-00000-of-00001.parquet",
            dict.fromkeys(["id", "question_id", "question", "answer", "image_source"], TEXT)
            | {"image": "image", "category": TEXT},
            POPE,
        )
    ],
    "hallusionbench": [
        Table(
            f"data/{split}-00000-of-00001.parquet",
            dict.fromkeys(["category", "subcategory", "visual_input", "set_id", "figure_id", "sample_note"], TEXT)
            | dict.fromkeys(["question_id", "question", "gt_answer_details", "gt_answer", "filename"], TEXT)
            | {"image": "image"},
            rows,
        )
        for split, rows in (("image", HALLUSION_IMAGE), ("non_image", HALLUSION_TEXT))
    ],
    "naturalbench": [
        Table(
            "data/test-00000-of-00001.parquet",
            {"Index": "int64", "Image": "image", "Question": TEXT, "Answer": TEXT, "Question_Type": TEXT}
            | {"Source": TEXT},
            NATURALBENCH,
        )
    ],
    "vl_rewardbench": [
        Table(
            "data/test-00000-of-00001.parquet",
            {"id": TEXT, "query": TEXT, "response": [TEXT], "image": "image", "human_ranking": ["int64"]}
            | {"models": [TEXT], "judge": [TEXT], "rationale": [TEXT], "query_source": TEXT, "ground_truth": TEXT}
            | {"human_error_analysis": TEXT},
            VL_REWARDBENCH,
        )
    ],
}
