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


AGGREGATES = {"mme": mme, "pope": pope, "mmbench": mmbench}
