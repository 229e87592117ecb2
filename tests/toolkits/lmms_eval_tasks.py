"""lmms-eval's tasks on our rows: its own task class over its own task files, with the data taken from local parquet."""

from __future__ import annotations

import os
from importlib.metadata import version
from pathlib import Path
from typing import Any

import datasets
import lmms_eval
import lmms_eval.api.metrics  # fills the table of metrics that task files name
from lmms_eval.api.task import ConfigurableMessagesTask
from lmms_eval.utils import load_yaml_config

from tests.eval.benchmarks import published_rows

datasets.disable_progress_bars()
# Some tasks build the client of their judge when they are imported. It is never called; should it be, nobody answers.
os.environ |= {"OPENAI_API_KEY": "none", "OPENAI_API_URL": "http://127.0.0.1:9/v1/chat/completions"}
os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
ABOUT = {"toolkit": "lmms-eval", "version": version("lmms-eval"), "model": "none named, so each task's defaults"}
TASKS = {
    "mme": "mme/mme.yaml",
    "mmbench": "mmbench/mmbench_en_dev_static.yaml",
    "seed": "seedbench/seedbench.yaml",
    "gqa": "gqa/gqa.yaml",
    "scienceqa": "scienceqa/scienceqa_img.yaml",
    "mmmu": "mmmu/mmmu_val.yaml",
    "mathvista": "mathvista/mathvista_testmini_format.yaml",
    "mathvista_cot": "mathvista/mathvista_testmini_cot.yaml",
    "mathvista_solution": "mathvista/mathvista_testmini_solution.yaml",
    "ai2d": "ai2d/ai2d.yaml",
    "chartqa": "chartqa/chartqa.yaml",
    "ocrbench": "ocrbench/ocrbench.yaml",
    "textvqa": "textvqa/textvqa_val.yaml",
    "docvqa": "docvqa/docvqa_val.yaml",
    "mmvp": "mmvp/mmvp.yaml",
    "realworldqa": "realworldqa/realworldqa.yaml",
    "cv_bench": "cv_bench/cv_bench.yaml",
    "pope": "pope/pope.yaml",
    "hallusionbench": "hallusion_bench/hallusion_bench_image.yaml",
    "naturalbench": "naturalbench/naturalbench.yaml",
    "mme_realworld": "mme_realworld/mme_realworld.yaml",
    "vl_rewardbench": "vl_rewardbench/vl_rewardbench.yaml",
    "blink": "blink/blink_counting.yaml",
    "mmstar": "mmstar/mmstar.yaml",
    "mathverse": "mathverse/mathverse_testmini.yaml",
    "mathvision": "mathvision/mathvision_testmini.yaml",
    "geometry3k_choices": "geometry3k/geometry3k.yaml",
    "coco_captions": "coco_cap/coco2017_cap_val.yaml",
    "detailcaps": "detailcaps/detailcaps.yaml",
}


def published(name: str) -> str:
    """The benchmark whose rows a task reads; a benchmark may have several tasks."""
    return name if name in published_rows.TABLES else name.rpartition("_")[0]


def task(name: str, folder: Path) -> ConfigurableMessagesTask:
    """lmms-eval's task over the rows that are written below ``folder``."""
    file = Path(lmms_eval.__file__).parent / "tasks" / TASKS[name]
    config = load_yaml_config(str(file))
    benchmark = published(name)
    root = published_rows.write_tables(benchmark, folder)
    files = [str(root / table.path) for table in published_rows.TABLES[benchmark]]
    if benchmark in ("gqa", "hallusionbench"):  # the second file holds GQA's images, or questions without an image
        files = files[:1]
    if benchmark == "gqa":
        _give_images(config, root / published_rows.TABLES["gqa"][1].path)
    config.pop("dataset_name", None)
    config.pop("group", None)
    config |= {"dataset_path": "parquet", "dataset_kwargs": {"data_files": {config["test_split"]: files}}}
    return ConfigurableMessagesTask(config=config, model_name=None)


def _give_images(config: dict[str, Any], file: Path) -> None:
    """GQA's task asks the hub for its second file while it reads the first; hand it the local one."""
    images = datasets.Dataset.from_parquet(str(file))
    config["process_docs"].__globals__["load_dataset"] = lambda *names, **options: images
