"""The demo's study with few images, few steps and one seed."""

from __future__ import annotations

import re
from pathlib import Path

SIZES = {
    "caption": 40, "vqa": 40, "stage3": 40, "preference": 36, "preference_test": 40,
    "probe_train": 60, "probe_val": 30, "probe_test": 30, "test": 40,
}  # fmt: skip


def reduce(folder: Path) -> None:
    """Rewrites a copy of ``configs/demo``."""
    for path in folder.glob("*.py"):
        text = re.sub(r'"train.steps": \d+', '"train.steps": 3', path.read_text())
        text = re.sub(r'"data.batch_size": \d+', '"data.batch_size": 16', text)
        text = re.sub(r'"train.epochs": [\d.]+', '"train.epochs": 1.0', text)
        text = re.sub(r'"train.log_every": \d+', '"train.log_every": 1', text)
        text = re.sub(r'"eval.batch_size": \d+', '"eval.batch_size": 40', text)
        path.write_text(text)
    text = (folder / "study.py").read_text()
    text = re.sub(r"^SIZES = \{.*?^\}", f"SIZES = {SIZES}", text, flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r'"seeds": \(.*?\)', '"seeds": (3,)', text)
    text = re.sub(r'"pairs": \d+', '"pairs": 4', text)
    (folder / "study.py").write_text(text)
