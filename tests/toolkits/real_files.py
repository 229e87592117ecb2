"""Published answer files below $PIVOT_SHARED_DATA, as answers with golds that any toolkit's scorer takes."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pandas

from tests.toolkits import golden
from tests.toolkits.odd_answers import Gold

MORE, OLD = "eval_outputs_more", "eval_outputs"
LETTERS = "ABCDEFGHI"


@dataclass(frozen=True)
class Item:
    """One answer; ``row`` is what an aggregate groups by."""

    benchmark: str
    answer: str
    gold: Gold
    row: dict[str, Any] = field(default_factory=dict)


def _lines(name: str) -> list[dict[str, Any]]:
    return [json.loads(line.rstrip(",")) for line in golden.answers(name).splitlines() if line.strip()]


def mmmu(name: str) -> list[Item]:
    golds = json.loads(golden.answers(f"{MORE}/mmmu/answer_dict_val.json.gz"))
    items = []
    for row in _lines(f"{MORE}/mmmu/{name}"):
        target = golds[row["id"]]["ground_truth"]
        accepted = [str(text) for text in (target if isinstance(target, list) else [target])]
        if row["question_type"] == "multiple-choice":
            gold: Gold = {"answers": accepted, "choices": [row["index2ans"][letter] for letter in row["all_choices"]]}
            items.append(Item("mmmu", row["response"], gold, {"id": row["id"]}))
        else:
            items.append(Item("mmmu_open", row["response"], {"answers": accepted}, {"id": row["id"]}))
    return items


def mmbench() -> list[Item]:
    table = pandas.read_excel(golden.DATA / MORE / "mmbench_dev_20230712" / "llava-v1.5-13b.xlsx", dtype=object)
    items = []
    for row in table.to_dict("records"):
        choices = [str(row[letter]) for letter in "ABCD" if not pandas.isna(row[letter])]
        gold = {"answers": [row["answer"]], "choices": choices}
        items.append(Item("mmbench", str(row["prediction"]), gold, {"index": int(row["index"]), **row}))
    return items


def mme() -> list[Item]:
    """Joined by category, image and question; the answers' questions end with LLaVA's suffix in place of MME's."""
    answers = {}
    for row in _lines(f"{OLD}/llava15_13b/MME_answers.jsonl.gz"):
        category, _, image = row["question_id"].partition("/")
        question = row["prompt"].split("\n")[0].strip()
        answers[category, image.rpartition("/")[2].rpartition(".")[0], question] = row["text"]
    items = []
    for row in csv.DictReader(golden.answers(f"{MORE}/mme/golds.tsv.gz").splitlines(), delimiter="\t"):
        question = row["question"].replace("Please answer yes or no.", "").strip()
        answer = answers[row["category"], row["image"].rpartition(".")[0], question]
        items.append(Item("mme", answer, {"answers": [row["answer"]]}, row))
    return items


def pope() -> list[Item]:
    """The version that LLaVA used; golds and answers of a category are in the same order."""
    questions = {row["question_id"]: row for row in _lines(f"{OLD}/llava15_13b/POPE_questions.jsonl.gz")}
    by_category: dict[str, list[str]] = {}
    for row in _lines(f"{OLD}/llava15_13b/POPE_answers.jsonl.gz"):
        by_category.setdefault(questions[row["question_id"]]["category"], []).append(row["text"])
    items = []
    for category, texts in by_category.items():
        golds = _lines(f"{MORE}/pope/coco_pope_{category}_e3e39262.json.gz")
        for text, row in zip(texts, golds, strict=True):
            gold = {"answers": [row["label"].capitalize()]}
            items.append(Item("pope", text, gold, {"category": category, "question": row["text"]}))
    return items


def seed() -> list[Item]:
    """GPT-4V, image questions, the first row of an id."""
    rows = {row["question_id"]: row for row in reversed(_lines(f"{MORE}/seed_bench/GPT-4V.json.gz"))}
    return [
        Item("seed", row["prediction"], {"answers": [row["gt_answer"]]}, {"id": name})
        for name, row in rows.items()
        if not name.startswith("v")
    ]


def scienceqa() -> list[Item]:
    """LLaVA's output file: golds and options are in it."""
    content = json.loads(golden.answers(f"{OLD}/llava15_13b/llava-v1.5-13b_output.jsonl.gz"))
    items = []
    for row in (*content["correct"], *content["incorrect"]):
        listed = re.findall(r"^[A-E]\. (.*)$", row["question"], re.MULTILINE)
        gold = {"answers": [row["ground_truth"]], "choices": listed}
        items.append(Item("scienceqa", row["pred"], gold, {"id": row["question_id"], "image": row["is_multimodal"]}))
    return [item for item in items if item.row["image"]]


def chartqa() -> list[Item]:
    rows = json.loads(golden.answers(f"{MORE}/chartqa/qwen2.5-vl-7b.json.gz"))
    return [Item("chartqa", row["prediction"], {"answers": [row["answer"]]}, {"split": row["split"]}) for row in rows]


def docvqa() -> list[Item]:
    rows = json.loads(golden.answers(f"{OLD}/multimodalocr_llava/docVQA.json.gz"))
    return [Item("docvqa", row["answer"], {"answers": row["gt_answers"]}) for row in rows]


def mathvista(name: str) -> list[Item]:
    rows = json.loads(golden.answers(f"{OLD}/mathvista/{name}")).values()
    return [
        Item(
            "mathvista",
            row["response"],
            {"answers": [row["answer"]], "choices": row["choices"] or [], "kind": row["question_type"]}
            | {"type": row["answer_type"], "precision": None if row["precision"] is None else int(row["precision"])},
            {"extraction": row.get("extraction"), "official": row.get("true_false")},
        )
        for row in rows
    ]


FILES: dict[str, Callable[[], list[Item]]] = {
    "mmmu/llava1.5_13b_responses.jsonl": lambda: mmmu("llava1.5_13b_responses.jsonl.gz"),
    "mmmu/qwen_vl_responses.jsonl": lambda: mmmu("qwen_vl_responses.jsonl.gz"),
    "mmbench_dev_20230712/llava-v1.5-13b.xlsx": mmbench,
    "mme: llava15_13b/MME_answers": mme,
    "pope e3e39262: llava15_13b/POPE_answers": pope,
    "seed_bench/GPT-4V.json (images)": seed,
    "scienceqa: llava15_13b/llava-v1.5-13b_output (images)": scienceqa,
    "chartqa/qwen2.5-vl-7b.json": chartqa,
    "multimodalocr_llava/docVQA.json": docvqa,
    "mathvista/output_llava_llama_2_13b.json": lambda: mathvista("output_llava_llama_2_13b.json.gz"),
    "mathvista/output_bard.json": lambda: mathvista("output_bard.json.gz"),
}
