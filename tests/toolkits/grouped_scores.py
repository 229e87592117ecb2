"""Write golden/grouped.json: the toolkits' own scores of whole answer files in which answers count in groups.

    python -m tests.toolkits.grouped_scores lmms_eval | vlmevalkit | cambrian

A toolkit's entries are replaced, the others' stay. The rows are those of ``grouped_rows``.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas

from tests.toolkits import golden
from tests.toolkits.grouped_rows import COGNITION, PERCEPTION, ROWS, Row

Numbers = dict[str, float]


def lmms_eval() -> tuple[str, dict[str, Numbers]]:
    from tests.toolkits import lmms_eval_tasks

    def tasks(name: str) -> Any:
        return importlib.import_module(f"lmms_eval.tasks.{name}")

    def mme() -> Numbers:
        module, found = tasks("mme.utils"), {}
        for row in ROWS["mme"]:
            doc = row | {"question_id": f"{row['category']}/{row['image']}"}
            for name, value in module.mme_process_results(doc, [row["said"]]).items():
                found.setdefault(name, []).append(value)
        return {name: module.mme_aggregate_results(values) for name, values in found.items()}

    def pope() -> Numbers:
        """A row for each kind of a question, as the hub has them."""
        module = tasks("pope.utils")
        results = [
            module.pope_process_results(row | {"question_id": "1"}, [row["said"]])["pope_accuracy"]
            for row in ROWS["pope"]
            for _ in row["category"].split(",")
        ]
        names = ("accuracy", "precision", "recall", "f1_score", "yes_ratio")
        return {name: getattr(module, f"pope_aggregate_{name}")(results) for name in names}

    def hallusionbench() -> Numbers:
        """Its rule without a judge, whose metrics stand beside those of the judge in the task's file."""
        module = tasks("hallusion_bench.evaluate_hb")
        rows = [
            row | {"model_prediction": row["said"], "gt_answer": str(int(row["answer"] == "Yes"))}
            for row in ROWS["hallusionbench"]
        ]
        names = ("aAcc", "fAcc", "qAcc")
        return {name: float(getattr(module, f"hb_aggregation_result_{name}_intern")(rows)) for name in names}

    def ocrbench() -> Numbers:
        module = tasks("ocrbench.utils")
        results = [
            module.ocrbench_process_results(
                {"answer": row["answer"], "question_type": row["category"]}
                | {"dataset": "HME100k" if row["category"].startswith("Handwritten M") else "IIIT5K"},
                [row["said"]],
            )["ocrbench_accuracy"]
            for row in ROWS["ocrbench"]
        ]
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
            return {"of 1": module.ocrbench_aggregate_accuracy(results, SimpleNamespace(output_path=folder))}

    found = [mme, pope, hallusionbench, ocrbench]
    scores = {own.__name__: own() for own in found}
    scores["naturalbench"] = _naturalbench(tasks("naturalbench.utils"))
    return lmms_eval_tasks.ABOUT["version"], scores


def _naturalbench(module: Any) -> Numbers:
    """Both toolkits have the same functions, and want all 7,600 rows around them."""
    groups: dict[int, dict[str, int]] = {}
    for row in ROWS["naturalbench"]:
        group, at = divmod(row["index"], 4)
        found = module.extract_answer(row["said"], row["type"])
        groups.setdefault(group, {})[f"q{at // 2}_i{at % 2}"] = found
    return {name: float(value) for name, value in module.get_scores(groups).items()}


def vlmevalkit() -> tuple[str, dict[str, Numbers]]:
    from tests.toolkits import vlmevalkit as toolkit

    version = toolkit.open_package()["version"]

    def module(name: str) -> Any:
        return importlib.import_module(f"vlmeval.dataset.{name}")

    def yes_no(called: str, convert: Callable[[int, Row], Row]) -> pandas.DataFrame:
        rows = [
            {"index": at, "answer": row["answer"], "category": row["category"], "prediction": row["said"]}
            | convert(at, row)
            for at, row in enumerate(ROWS[called.lower()])
        ]
        built = module("image_yorn").ImageYORNDataset.__new__(module("image_yorn").ImageYORNDataset)
        built.dataset_name = called
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / f"model_{called}.tsv"
            pandas.DataFrame(rows).to_csv(file, sep="\t", index=False)
            return built.evaluate(str(file), model="exact_matching", nproc=1)

    def hallusion(at: int, row: Row) -> Row:
        names = ("category", "subcategory", "visual_input", "set_id", "figure_id", "question_id")
        return {"index": "_".join(row[name] for name in names), "l2-category": row["subcategory"]}

    mme = yes_no("MME", lambda at, row: {"image_path": f"{row['category']}/{row['image']}"}).iloc[0]
    pope = yes_no("POPE", lambda at, row: {}).set_index("split")
    figures = yes_no("HallusionBench", hallusion).set_index("split").loc["Overall"]
    vqa = module("image_vqa")
    rows = [
        {"prediction": row["said"], "answer": repr(row["answer"]), "category": row["category"]}
        for row in ROWS["ocrbench"]
    ]
    vqa.load, vqa.dump, vqa.tqdm = lambda file: pandas.DataFrame(rows), lambda *rest: None, lambda listed: listed
    return version, {
        "mme": {name: float(mme[name]) for name in ("perception", "reasoning", *PERCEPTION, *COGNITION)},
        "pope": {f"{split} {name}": float(pope.loc[split, name]) for split in pope.index for name in pope.columns},
        "hallusionbench": {name: float(figures[name]) for name in ("aAcc", "fAcc", "qAcc")},
        "naturalbench": _naturalbench(module("utils.naturalbench")),
        "ocrbench": {name: float(np.float64(one)) for name, one in vqa.OCRBench.evaluate("answers.xlsx").items()},
    }


def cambrian() -> tuple[str, dict[str, Numbers]]:
    from tests.toolkits import cambrian_scorers as toolkit

    def computed(name: str, rows: list[Row], **more: Any) -> dict[str, Any]:
        names, file = toolkit.opened(name), toolkit.WORK / "grouped.jsonl"
        file.write_text("".join(json.dumps(row | {"model_id": "m"}) + "\n" for row in rows))
        names["compute_metrics"](str(file), str(toolkit.WORK / "wrong" / "wrong.jsonl"), "none.csv", **more)
        return names["found"]

    rows = {
        name: [{"answer": row["said"], "gt_answer": row["answer"], "category": row["category"]} for row in ROWS[name]]
        for name in ("mme", "ocrbench")
    }
    mme = computed("mme", rows["mme"])
    ocr = computed("ocrbench", rows["ocrbench"], extra_penalization=False)
    return toolkit.ABOUT["version"], {
        "mme": {name: mme[name] for name in ("Perception", "Cognition")}
        | {name: mme[name]["score"] for name in PERCEPTION + COGNITION},
        "ocrbench": {name: one["accuracy"] for name, one in ocr.items() if isinstance(one, dict)},
    }


def main(name: str) -> None:
    version, scores = {"lmms_eval": lmms_eval, "vlmevalkit": vlmevalkit, "cambrian": cambrian}[name]()
    path = golden.FOLDER / "grouped.json"
    content = json.loads(path.read_text()) if path.is_file() else {"made_by": {}, "scores": {}}
    content["made_by"][name], content["scores"][name], content["rows"] = version, scores, ROWS
    text = json.dumps(content, ensure_ascii=False, sort_keys=True).replace("}, {", "},\n{")
    path.write_text(text + "\n", encoding="utf-8")
    print(name, version, scores)


if __name__ == "__main__":
    main(sys.argv[1])
