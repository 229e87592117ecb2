"""VLMEvalKit's dataset classes on our rows, without the parts of the package that models and other data sets need."""

from __future__ import annotations

import importlib
import importlib.util
import os
import subprocess
import sys
import types
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas

from tests.eval.benchmarks import published_rows

# Our name → (module, class, data set name as VLMEvalKit has it).
DATASETS = {
    "mme": ("image_yorn", "ImageYORNDataset", "MME"),
    "mmbench": ("image_mcq", "ImageMCQDataset", "MMBench_DEV_EN"),
    "seed": ("image_mcq", "ImageMCQDataset", "SEEDBench_IMG"),
    "gqa": ("image_vqa", "ImageVQADataset", "GQA_TestDev_Balanced"),
    "scienceqa": ("image_mcq", "ImageMCQDataset", "ScienceQA_TEST"),
    "mmmu": ("image_mcq", "MMMUDataset", "MMMU_DEV_VAL"),
    "mathvista": ("image_vqa", "MathVista", "MathVista_MINI"),
    "ai2d": ("image_mcq", "ImageMCQDataset", "AI2D_TEST"),
    "chartqa": ("image_vqa", "ImageVQADataset", "ChartQA_TEST"),
    "ocrbench": ("image_vqa", "OCRBench", "OCRBench"),
    "textvqa": ("image_vqa", "ImageVQADataset", "TextVQA_VAL"),
    "docvqa": ("image_vqa", "ImageVQADataset", "DocVQA_VAL"),
    "mmvp": ("image_mcq", "ImageMCQDataset", "MMVP"),
    "realworldqa": ("image_mcq", "ImageMCQDataset", "RealWorldQA"),
    "cv_bench_2d": ("image_mcq", "CVBench", "CV-Bench-2D"),
    "cv_bench_3d": ("image_mcq", "CVBench", "CV-Bench-3D"),
    "pope": ("image_yorn", "ImageYORNDataset", "POPE"),
    "hallusionbench": ("image_yorn", "ImageYORNDataset", "HallusionBench"),
    "naturalbench": ("image_mcq", "NaturalBenchDataset", "NaturalBenchDataset"),
    "mme_realworld": ("image_mcq", "MMERealWorld", "MME-RealWorld"),
    "vl_rewardbench": ("vl_rewardbench", "VLRewardBench", "VL-RewardBench"),
    "blink": ("image_mcq", "ImageMCQDataset", "BLINK"),
    "mmstar": ("image_mcq", "ImageMCQDataset", "MMStar"),
    "mathverse": ("image_vqa", "MathVerse", "MathVerse_MINI"),
    "mathvision": ("image_vqa", "MathVision", "MathVision_MINI"),
    "mm_math": ("mmmath", "MMMath", "MM-Math"),
    "coco_captions": ("image_caption", "ImageCaptionDataset", "COCO_VAL"),
}


def open_package() -> dict[str, str]:
    """Make ``vlmeval`` importable from $VLMEVALKIT, else from ms-vlmeval, which holds a copy; says which it is.

    Its ``__init__`` files import every model and data set there is, with packages for each; the modules behind them
    are imported one by one instead, as they are.
    """
    checkout = os.environ.get("VLMEVALKIT")
    if checkout:
        root = Path(checkout) / "vlmeval"
        about = {"toolkit": "VLMEvalKit", "version": _commit(Path(checkout))}
    else:
        found = importlib.util.find_spec("vlmeval")
        if found is None or not found.submodule_search_locations:
            raise SystemExit("no VLMEvalKit: set VLMEVALKIT to a checkout, or pip install --no-deps ms-vlmeval==0.0.20")
        root = Path(found.submodule_search_locations[0])
        about = {"toolkit": "VLMEvalKit", "version": f"ms-vlmeval {version('ms-vlmeval')}"}
    for name, folder in (("vlmeval", root), ("vlmeval.dataset", root / "dataset")):
        package = types.ModuleType(name)
        package.__path__ = [str(folder)]
        sys.modules[name] = package
    return about | {"model": "none named, so the data sets' own prompts"}


def _commit(checkout: Path) -> str:
    """The checkout's commit, from git or from the file COMMIT that an exported tree has."""
    if (checkout / "COMMIT").is_file():
        return f"commit {(checkout / 'COMMIT').read_text().strip()}"
    told = subprocess.run(["git", "-C", str(checkout), "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    return f"commit {told.stdout.strip()}"


def dataset(name: str, folder: Path) -> Any:
    """VLMEvalKit's data set over a TSV file that is written below ``folder``, its md5 left unchecked."""
    module, class_name, called = DATASETS[name]
    os.environ["LMUData"] = str(folder)  # noqa: SIM112 (so the toolkit spells it)
    cls = getattr(importlib.import_module(f"vlmeval.dataset.{module}"), class_name)
    file = published_rows.write_tsv(name, folder, f"{called}.tsv")
    cls.DATASET_MD5 = {key: value for key, value in cls.DATASET_MD5.items() if key != called}
    if class_name == "MMERealWorld":  # its reader looks in the hub's cache only
        cls.load_data = lambda self, dataset: pandas.read_csv(file, sep="\t")
    return cls(dataset=called)
