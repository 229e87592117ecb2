"""VLMEvalKit's own evaluation of a whole answer file, without a judge, as its command line runs it."""

from __future__ import annotations

import contextlib
import io
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas

from tests.toolkits.real_files import Item


def _evaluated(cls: Any, called: str, rows: list[dict[str, Any]]) -> Any:
    """The data set's ``evaluate`` on a file of predictions; the questions are those of the file."""
    built = cls.__new__(cls)
    built.dataset_name = called
    built.data = pandas.DataFrame(rows).drop(columns="prediction")
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        file = Path(folder) / f"model_{called}.tsv"
        pandas.DataFrame(rows).to_csv(file, sep="\t", index=False)
        return built.evaluate(str(file), model="exact_matching", nproc=1)


def mme(module: Callable[[str], Any], items: list[Item]) -> dict[str, float]:
    rows = [
        {"index": at, "question": item.row["question"], "answer": item.gold["answers"][0]}
        | {"category": item.row["category"], "image_path": item.row["image"], "prediction": item.answer}
        for at, item in enumerate(items)
    ]
    found = _evaluated(module("image_yorn").ImageYORNDataset, "MME", rows)
    return {name: round(float(found[name].iloc[0]), 4) for name in ("perception", "reasoning")}


def pope(module: Callable[[str], Any], items: list[Item]) -> dict[str, float]:
    rows = [
        {"index": at, "question": item.row["question"], "answer": item.gold["answers"][0]}
        | {"category": item.row["category"], "prediction": item.answer}
        for at, item in enumerate(items)
    ]
    found = _evaluated(module("image_yorn").ImageYORNDataset, "POPE", rows)
    return {f"{row['split']} F1": round(float(row["Overall"]), 4) for row in found.to_dict("records")}


def mmbench(module: Callable[[str], Any], items: list[Item]) -> dict[str, float]:
    rows = [item.row | {"prediction": item.answer} for item in items]
    found = _evaluated(module("image_mcq").ImageMCQDataset, "MMBench_DEV_EN", rows)
    return {"circular": round(float(found["Overall"].iloc[0]), 6)}


def captions(module: Callable[[str], Any], items: list[Item]) -> dict[str, float]:
    """Its caption metrics, which split texts at blanks; BLEU is a list there."""
    answers = {str(at): [item.answer] for at, item in enumerate(items)}
    golds = {str(at): item.gold["answers"] for at, item in enumerate(items)}
    with contextlib.redirect_stdout(io.StringIO()):
        found = module("image_caption").COCO_Caption_Scorer(answers, golds).compute_scores()
    found |= {f"Bleu_{at}": value for at, value in enumerate(found.pop("Bleu"), 1)}
    return {name: round(float(value), 4) for name, value in sorted(found.items())}


AGGREGATES = {"coco_captions": captions, "mme": mme, "pope": pope, "mmbench": mmbench}
