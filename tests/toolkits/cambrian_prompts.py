"""Write golden/prompts_cambrian.json: what Cambrian's evaluation scripts ask about the rows of ``published_rows``.

Takes the checkout from $CAMBRIAN. The conversation template (vicuna_v1) is left off, as another model has another.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import datasets

from tests.eval.benchmarks import published_rows
from tests.toolkits import golden, scripts

datasets.disable_progress_bars()
SCRIPTS = {
    "mme": "mme",
    "mmbench": "mmbench_en",
    "seed": "seed",
    "gqa": "gqa",
    "scienceqa": "scienceqa",
    "mmmu": "mmmu",
    "mathvista": "mathvista",
    "ai2d": "ai2d",
    "chartqa": "chartqa",
    "ocrbench": "ocrbench",
    "textvqa": "textvqa",
    "docvqa": "docvqa",
    "mmvp": "mmvp",
    "realworldqa": "realworldqa",
    "pope": "pope",
    "blink": "blink",
    "mmstar": "mmstar",
}
SOURCES = {"ADE20K": "ade", "COCO": "coco", "Omni3D": "omni"}  # CV-Bench is three scripts there
NOT_THERE = (
    "hallusionbench", "naturalbench", "mme_realworld", "vl_rewardbench", "mathverse", "mathvision", "geometry3k",
    "geometry3k_choices", "mm_math", "coco_captions", "detailcaps",
)  # fmt: skip
SKIPPED = dict.fromkeys(NOT_THERE, "Cambrian has no such script")


def rows(name: str, folder: Path) -> list[dict[str, Any]]:
    """All rows of a benchmark, with images opened."""
    root = published_rows.write_tables(name, folder)
    files = [str(root / table.path) for table in published_rows.TABLES[name]]
    return [dict(row) for row in datasets.Dataset.from_parquet(files[:1] if name == "gqa" else files)]


def ask(names: dict[str, Any], row: dict[str, Any], *more: Any) -> dict[str, Any]:
    """The prompt of one row by the script's ``process`` or its ``CustomDataset``."""
    if "CustomDataset" in names:
        names["CustomDataset"](names["args"], [row], None, None, scripts.MODEL_CONFIG)[0]
    else:
        names["process"](row, names["args"], None, None, scripts.MODEL_CONFIG, *more)
    return golden.entry(scripts.question(names), names["args"].max_new_tokens)


def prompts(checkout: Path, name: str, folder: Path) -> dict[str, Any]:
    names = scripts.run(checkout / "eval" / "eval" / SCRIPTS[name] / f"{SCRIPTS[name]}_eval.py")
    found = {}
    for position, row in enumerate(rows(name, folder)):
        more: tuple[Any, ...] = ()
        if name == "gqa":
            more = (
                {row["imageId"]: datasets.Image().decode_example(published_rows.TABLES["gqa"][1].rows[0]["image"])},
            )
        if name == "mmvp":  # the script builds its rows from Questions.csv and image files, under these names
            more = ({row["Index"] - 1: row["image"]},)
            row = {"question": row["Question"], "options": row["Options"], "imageId": row["Index"] - 1}
        found[str(position)] = ask(names, row, *more)
    return found


def cv_bench(checkout: Path, folder: Path) -> dict[str, Any]:
    """Each row by the script for its source; the one for Omni3D reads images from files."""
    open_scripts = {
        source: scripts.run(checkout / "eval" / "eval" / script / f"{script}_eval.py")
        for source, script in SOURCES.items()
    }
    found = {}
    for position, row in enumerate(rows("cv_bench", folder)):
        names = open_scripts[row["source"]]
        row["image_name"] = f"{position}.png"
        row["image"].save(folder / row["image_name"])
        names["args"].images_path = f"{folder}/"
        found[str(position)] = ask(names, row)
    return found


def main(path: Path) -> None:
    checkout = Path(os.environ.get("CAMBRIAN", ""))
    if not (checkout / "eval" / "eval").is_dir():
        raise SystemExit("no Cambrian: set CAMBRIAN to a checkout of github.com/cambrian-mllm/cambrian")
    scripts.open_package("cambrian", checkout)
    with tempfile.TemporaryDirectory() as folder:
        benchmarks = {name: prompts(checkout, name, Path(folder)) for name in SCRIPTS}
        benchmarks["cv_bench"] = cv_bench(checkout, Path(folder))
    about = {"toolkit": "Cambrian", "version": scripts.version(checkout), "model": "template left off"}
    golden.write(path, about, benchmarks, SKIPPED)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else golden.FOLDER / "prompts_cambrian.json")
