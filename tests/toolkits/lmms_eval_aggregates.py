"""lmms-eval's own aggregates over a whole answer file."""

from __future__ import annotations

import contextlib
import io
from typing import Any

from tests.toolkits.real_files import Item


def mme(tasks: Any, items: list[Item]) -> dict[str, float]:
    module = tasks("mme.utils")
    found: dict[str, list[Any]] = {}
    for item in items:
        doc = item.row | {"question_id": f"{item.row['category']}/{item.row['image']}"}
        for name, value in module.mme_process_results(doc, [item.answer]).items():
            found.setdefault(name, []).append(value)
    return {name: round(module.mme_aggregate_results(values), 4) for name, values in found.items()}


def pope(tasks: Any, items: list[Item]) -> dict[str, float]:
    module = tasks("pope.utils")
    docs = [{"answer": item.gold["answers"][0], "question_id": str(at)} for at, item in enumerate(items)]
    results = [
        module.pope_process_results(doc, [item.answer])["pope_accuracy"] for doc, item in zip(docs, items, strict=True)
    ]
    names = ("accuracy", "precision", "recall", "f1_score", "yes_ratio")
    return {name: round(getattr(module, f"pope_aggregate_{name}")(results), 6) for name in names}


def mmbench(tasks: Any, items: list[Item]) -> dict[str, float]:
    """The static evaluation; a missing option is the text "nan", as its task hands it on."""
    evaluator = tasks("mmbench.en_utils").mmbench_evaluator
    rows = [
        {name: item.row[name] for name in ("index", "question", "prediction", "answer")}
        | dict.fromkeys("ABCDE", "nan")
        | dict(zip("ABCD", item.gold["choices"], strict=False))
        | {"category": "x", "L2-category": "x"}
        for item in items
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        overall, *_ = evaluator.eval_result(rows, eval_method="static")
    return {"circular, static": round(float(overall), 6)}


def mathvista(tasks: Any, items: list[Item]) -> dict[str, Any]:
    """From the extractions that the file holds, as a judge made them."""
    evaluator = tasks("mathvista.utils").mathvista_evaluator
    right = 0
    for item in items:
        gold = item.gold
        found = evaluator.normalize_extracted_answer(
            item.row["extraction"], gold["choices"], gold["kind"], gold["type"], gold["precision"]
        )
        right += evaluator.safe_equal(found, gold["answers"][0])
    official = sum(bool(item.row["official"]) for item in items)
    return {"right from the file's extractions": right, "right as the file says": official, "rows": len(items)}


AGGREGATES = {"mme": mme, "pope": pope, "mmbench": mmbench, "mathvista": mathvista}
