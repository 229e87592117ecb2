"""A small world of files for the commands, with a run that ``train`` made of them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pivot_jax.cli import main as cli
from pivot_jax.data.processing.tokenizer import train_bpe
from tests.tiny import runs

COLOURS = {"red": (220, 20, 20), "green": (20, 220, 20), "blue": (20, 20, 220)}
QUESTION = "<image>\nWhich colour is it?"


def run(*argv: object) -> int:
    return cli.main([str(word) for word in argv])


def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy, which tests may change, of the shared folder: see :func:`draw`."""
    return shutil.copytree(runs.once("commands", draw), tmp_path_factory.mktemp("commands") / "world")


def draw(folder: Path) -> None:
    """Images, a LLaVA file, a question file, a class folder, masks, a tokenizer, a config, and ``run``."""
    rng = np.random.default_rng(0)
    rows, questions = [], []
    for index in range(12):
        name = list(COLOURS)[index % 3]
        noise = rng.integers(-20, 20, (16, 16, 3))
        image = Image.fromarray(np.clip(np.asarray(COLOURS[name]) + noise, 0, 255).astype(np.uint8))
        path = folder / f"{index}.png"
        image.save(path)
        turns = [{"from": "human", "value": QUESTION}, {"from": "gpt", "value": f"It is {name}."}]
        rows.append({"id": str(index), "image": path.name, "conversations": turns})
        choices = list(COLOURS)
        questions.append(
            {"id": str(index), "image": path.name, "question": "Which colour?", "choices": choices, "hint": "",
             "answer": "ABC"[index % 3]}
        )  # fmt: skip
        for split in ("train", "test"):
            (folder / "classes" / split / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.asarray(image)[:, ::-1] if split == "test" else np.asarray(image)).save(
                folder / "classes" / split / name / f"{index}.png"
            )
            (folder / "masks" / split).mkdir(parents=True, exist_ok=True)
            (folder / "masks" / f"{split}annot").mkdir(parents=True, exist_ok=True)
            image.save(folder / "masks" / split / f"{index}.png")
            Image.fromarray(np.full((16, 16), index % 3, np.uint8)).save(
                folder / "masks" / f"{split}annot" / f"{index}.png"
            )
    (folder / "data.json").write_text(json.dumps(rows))
    (folder / "questions.jsonl").write_text("".join(json.dumps(q) + "\n" for q in questions))
    tokenizer = train_bpe([QUESTION, *(row["conversations"][1]["value"] for row in rows)], 320, folder / "tokenizer")
    config = {
        "name": "tiny",
        "model.vision": {"image_size": 16, "patch_size": 8, "width": 16, "depth": 3, "heads": 2, "mlp_dim": 32},
        "model.decoder": {"vocab_size": 330, "width": 32, "depth": 2, "heads": 4, "kv_heads": 2, "mlp_dim": 48},
        "tokenizer.path": str(tokenizer),
        "data.sources": ({"format": "llava", "path": str(folder / "data.json")},),
        "data.image.size": 16,
        "data.batch_size": 8,
        "data.max_length": 128,
        "train.steps": 3,
        "train.log_every": 1,
        "eval.max_new_tokens": 4,
    }
    (folder / "tiny.py").write_text(f"def get_config():\n    return {config!r}\n")
    assert run("train", "--config", folder / "tiny.py", "--workdir", folder / "run") == 0
