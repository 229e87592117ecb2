"""A small MME in both published forms, and a tiny run that was trained on other images with such questions.

It answers yes and no, mostly as it should; some of the published answers are wrong, so that a score says something.
"""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path

import datasets
import numpy as np
from PIL import Image

from pivot_jax.cli import main as cli
from pivot_jax.data.processing.tokenizer import train_bpe
from pivot_jax.eval.scoring.points import MME_COGNITION, MME_PERCEPTION
from tests.eval.benchmarks import published_rows
from tests.eval.benchmarks.published import yes_no

COLOURS = {"red": (220, 20, 20), "green": (20, 220, 20), "blue": (20, 20, 220)}
REQUEST, WORD = " Please answer yes or no.", "\nAnswer the question using a single word or phrase."
CATEGORIES = (*MME_PERCEPTION, *MME_COGNITION)  # VLMEvalKit scores a file that has them all
IMAGES = 2 * len(CATEGORIES)  # with two questions each


def drawn(index: int) -> bytes:
    """The image of a number, as PNG: one of the colours, a little changed. VLMEvalKit sends it as JPEG all the same."""
    tint = np.random.default_rng(index).integers(-20, 20, 3)
    pixels = np.tile(np.asarray(list(COLOURS.values())[index % 3]) + tint, (20, 28, 1))
    buffer = io.BytesIO()
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def questions(index: int) -> list[tuple[str, str]]:
    """Two questions about an image with their answers: one colour is right, the other is not."""
    names = list(COLOURS)
    right, wrong = names[index % 3], names[(index + 1 + index // 3 % 2) % 3]
    return [(f"Is the image {right}?", "Yes"), (f"Is the image {wrong}?", "No")]


def rows() -> list[dict]:
    """As the hub has them; both questions about an image have its name as their id. Every fifth has a wrong answer."""
    return [
        {
            "question_id": f"{CATEGORIES[index % len(CATEGORIES)]}/{index:04}.png",
            "image": {"bytes": drawn(index), "path": f"{index:04}.png"},
            "question": question + REQUEST,
            "answer": {"Yes": "No", "No": "Yes"}[answer] if (2 * index + second) % 5 == 0 else answer,
            "category": CATEGORIES[index % len(CATEGORIES)],
        }
        for index in range(IMAGES)
        for second, (question, answer) in enumerate(questions(index))
    ]


def write_parquet(folder: Path) -> Path:
    """The hub's form; returns the folder of the benchmark."""
    (table,) = yes_no.TABLES["mme"]
    file = folder / "mme" / table.path
    file.parent.mkdir(parents=True)
    datasets.Dataset.from_list(rows(), features=table.features).to_parquet(file)
    return folder / "mme"


def write_tsv(folder: Path, name: str) -> Path:
    """VLMEvalKit's form."""
    listed = [
        {
            "index": str(index),
            "image": base64.b64encode(row["image"]["bytes"]).decode(),
            "question": row["question"],
            "answer": row["answer"],
            "category": row["category"],
            "image_path": row["question_id"],
        }
        for index, row in enumerate(rows())
    ]
    return published_rows.write_tsv("mme", folder, f"{name}.tsv", listed)


def draw(folder: Path) -> None:
    """``mme`` (parquet), ``MME_LOCAL.tsv``, and ``run``."""
    write_parquet(folder)
    write_tsv(folder, "MME_LOCAL")
    taught = []
    for index in range(IMAGES, 3 * IMAGES):
        (folder / f"{index}.png").write_bytes(drawn(index))
        for question, answer in questions(index):
            for text in (question + REQUEST, question + WORD):
                turns = [{"from": "human", "value": f"<image>\n{text}"}, {"from": "gpt", "value": answer}]
                taught.append({"id": str(len(taught)), "image": f"{index}.png", "conversations": turns})
    (folder / "data.json").write_text(json.dumps(taught))
    words = train_bpe([turn["value"] for row in taught for turn in row["conversations"]], 340, folder / "tokenizer")
    config = {
        "name": "tiny",
        "model.vision": {"image_size": 16, "patch_size": 8, "width": 16, "depth": 2, "heads": 2, "mlp_dim": 32},
        "model.decoder": {"vocab_size": 352, "width": 32, "depth": 2, "heads": 4, "kv_heads": 2, "mlp_dim": 48},
        "tokenizer.path": str(words),
        "data.sources": ({"format": "llava", "path": str(folder / "data.json")},),
        "data.image.size": 16,
        "data.batch_size": 16,
        "data.max_length": 128,
        "train.steps": 300,
        "train.log_every": 100,
        "optimizer.rules": ((".*", 3e-3),),
    }
    (folder / "tiny.py").write_text(f"def get_config():\n    return {config!r}\n")
    assert cli.main(["train", "--config", str(folder / "tiny.py"), "--workdir", str(folder / "run")]) == 0
