"""Write golden/part_averages.json: the toolkits' own averages over parts of a benchmark, on made-up verdicts.

    python -m tests.toolkits.part_averages lmms_eval | vlmevalkit

A toolkit's entries are replaced, the others' stay. Every row has a verdict, so that only the averages are compared.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import random
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas

from tests.toolkits import golden

PATH = golden.FOLDER / "part_averages.json"
Row = dict[str, Any]
Numbers = dict[str, float]

MMSTAR = {
    "math": ["geometry", "numeric commonsense", "statistics"],
    "logical reasoning": ["code & sequence reasoning", "diagram reasoning"],
    "coarse perception": ["image emotion"],
}
CV_BENCH = {"2D": {"ADE20K": ["Count", "Relation"], "COCO": ["Count", "Relation"]}, "3D": {"Omni3D": ["Depth"]}}
REAL_WORLD = [
    ("Perception/OCR with Complex Context", "license"),
    ("Perception/Remote Sensing", "color"),
    ("Reasoning/Monitoring", "calculate"),
    ("Reasoning/OCR with Complex Context", "character identification"),
]
MMBENCH = [("attribute_recognition", "finegrained_perception"), ("ocr", "finegrained_perception"), ("future", "logic")]


def rows() -> dict[str, list[Row]]:
    """Rows with a verdict ``right``; parts of unequal sizes, so that every way to average gives another number."""
    draw = random.Random(0)
    cv_bench = [
        {"type": kind, "source": source, "task": draw.choice(tasks), "right": draw.random() < 0.6}
        for kind, sources in CV_BENCH.items()
        for source, tasks in sources.items()
        for _ in range(draw.randint(5, 40))
    ]
    mmstar = [
        {"category": category, "l2_category": part, "right": draw.random() < draw.random()}
        for category, parts in MMSTAR.items()
        for part in parts
        for _ in range(draw.randint(3, 20))
    ]
    real_world = [
        {"category": category, "l2-category": part, "right": draw.random() < 0.2 + 0.2 * at}
        for at, (category, part) in enumerate(REAL_WORLD)
        for _ in range(draw.randint(5, 30))
    ]
    mmbench = [
        {"index": index + 10**6 * turn, "category": category, "l2-category": part, "right": draw.random() < 0.85}
        for index in range(60)
        for category, part in [draw.choice(MMBENCH)]
        for turn in range(draw.randint(2, 4))
    ]
    mmvp = [{"index": index, "question": f"{index // 2}", "right": draw.random() < 0.7} for index in range(40)]
    return {"mmstar": mmstar, "cv_bench": cv_bench, "mme_realworld": real_world, "mmbench": mmbench, "mmvp": mmvp}


def lmms_eval(made: dict[str, list[Row]]) -> tuple[str, dict[str, Numbers]]:
    from tests.toolkits import lmms_eval_tasks

    def tasks(name: str) -> Any:
        return importlib.import_module(f"lmms_eval.tasks.{name}.utils")

    mmstar = [{"question_id": 0, "score": float(row["right"])} | row for row in made["mmstar"]]
    means = tasks("mmstar").mmstar_aggregate_results
    found = {"mmstar": {"average": means(mmstar)}}
    for category in MMSTAR:
        found["mmstar"][category] = means([row for row in mmstar if row["category"] == category])
    cv_bench = [{"is_correct": row["right"]} | row for row in made["cv_bench"]]
    module = tasks("cv_bench")
    found["cv_bench"] = {
        "accuracy": module.cv_bench_aggregate_results(cv_bench),
        "formula": module.cv_bench_default_aggregate_results(cv_bench),
    }
    found["mme_realworld"] = {
        "accuracy": tasks("mme_realworld").mme_realworld_aggregate_results(
            [
                {
                    "category": row["category"].split("/")[0],
                    "sub_category": row["category"].split("/")[1],
                    "task_category": row["l2-category"],
                    "pred_answer": "A" if row["right"] else "B",
                    "answer": "A",
                }
                for row in made["mme_realworld"]
            ]
        )
    }
    pairs = [
        {"index": at, "pair_index": row["index"] // 2, "is_correct": row["right"]}
        for at, row in enumerate(made["mmvp"])
    ]
    module = tasks("mmvp")
    found["mmvp"] = {
        "accuracy": module.mmvp_aggregate_results(pairs),
        "pair_accuracy": module.mmvp_aggregate_pair_results(pairs),
    }
    return lmms_eval_tasks.ABOUT["version"], found


def vlmevalkit(made: dict[str, list[Row]]) -> tuple[str, dict[str, Numbers]]:
    from tests.toolkits import vlmevalkit as package

    about = package.open_package()
    rules = importlib.import_module("vlmeval.dataset.utils.multiple_choice")
    mcq = importlib.import_module("vlmeval.dataset.image_mcq")

    def reported(frame: pandas.DataFrame) -> Numbers:
        return {name: float(value[0]) for name, value in frame.to_dict("list").items() if name != "split"}

    def hits(name: str, **same: Callable[[Row], Any]) -> pandas.DataFrame:
        listed = [
            {"hit": int(row["right"])} | row | {key: make(row) for key, make in same.items()} for row in made[name]
        ]
        return pandas.DataFrame(listed)

    cv_bench = hits("cv_bench", split=lambda row: row["type"])
    found = {
        "mmstar": reported(rules.report_acc(hits("mmstar").rename(columns={"l2_category": "l2-category"}))),
        "cv_bench": {
            "2D": reported(mcq.CVBench.report_accuracy(None, cv_bench[cv_bench["split"] == "2D"]))["Overall"],
            "3D": reported(rules.report_acc(cv_bench[cv_bench["split"] == "3D"].copy()))["Overall"],
        },
        "mmvp": reported(rules.report_acc_MMVP(hits("mmvp"))),
    }
    questions = [
        {"index": str(row["index"]), "category": row["category"], "l2-category": row["l2-category"]}
        | {"question": "Which?", "A": "x", "B": "y", "answer": "A", "prediction": "A" if row["right"] else "B"}
        for row in made["mmbench"]
    ]
    frame = pandas.DataFrame(questions).astype({"index": int})
    with tempfile.TemporaryDirectory() as folder:
        circular = rules.mcq_circular_eval(
            None, frame.copy(), frame.drop(columns="prediction"), 1, str(Path(folder) / "r.pkl"), "MMBench_DEV_EN"
        )
        found["mmbench"] = reported(rules.report_acc(circular))
        scored = hits("mme_realworld", score=lambda row: int(row["right"]))
        scored.to_csv(Path(folder) / "score.tsv", sep="\t", index=False)
        rating = rules.get_dimension_rating(str(Path(folder) / "score.tsv"))
    found["mme_realworld"] = {"accuracy": float(rating["Overall"])} | {
        task: float(rating[task]["Avg"]) for task in ("Perception", "Reasoning")
    }
    return about["version"], found


def main(toolkit: str) -> None:
    made = rows()
    content = json.loads(PATH.read_text()) if PATH.is_file() else {"made_by": {}, "numbers": {}}
    content["rows"] = made
    with contextlib.redirect_stdout(io.StringIO()):
        content["made_by"][toolkit], content["numbers"][toolkit] = {"lmms_eval": lmms_eval, "vlmevalkit": vlmevalkit}[
            toolkit
        ](made)
    PATH.write_text(json.dumps(content, ensure_ascii=False, sort_keys=True, indent=0) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
