"""Tokenizers, images and configs for the data tests."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pivot_jax.config import base
from pivot_jax.data.processing.tokenizer import load_tokenizer, train_bpe

TEXTS = [
    "What color is the circle? The circle is red.",
    "How many squares are there? There are two blue squares at the top left.",
    "Describe the picture. There is a small green triangle.",
]


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory):
    """A byte-level BPE of 320 tokens with Qwen's special tokens."""
    return load_tokenizer(train_bpe(TEXTS, 320, tmp_path_factory.mktemp("tokenizer") / "bpe"))


@pytest.fixture(scope="session")
def qwen(shared_data):
    """The real Qwen2.5 tokenizer."""
    return load_tokenizer(shared_data / "qwen2_5_vl_processor")


@pytest.fixture
def image_folder(tmp_path) -> Path:
    """A folder of 40 small images, ``0.png`` to ``39.png``; image i is filled with colour (i, 2i, 3i)."""
    folder = tmp_path / "images"
    folder.mkdir()
    for i in range(40):
        Image.fromarray(np.full((12, 16, 3), (i, 2 * i, 3 * i), np.uint8)).save(folder / f"{i}.png")
    return folder


def write_jsonl(path: Path, rows: list) -> str:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return str(path)


def llava_row(i: int, answer: str | None = None, **more) -> dict:
    turns = [
        {"from": "human", "value": f"<image>\nWhat color is circle {i}?"},
        {"from": "gpt", "value": answer if answer is not None else "red" + " blue" * (i % 7)},
    ]
    return {"id": f"row{i}", "image": f"{i}.png", "conversations": turns, **more}


def preference_row(i: int, **more) -> dict:
    return {
        "id": f"row{i}", "image": f"{i}.png", "question": f"What color is circle {i}?",
        "chosen": "The circle is red." + " Yes." * (i % 3), "rejected": "The circle is blue.", **more,
    }  # fmt: skip


def config(*sources: dict, **data):
    """The base config with these sources; keyword arguments set keys of ``data`` (``train_epochs`` etc. of train)."""
    cfg = base()
    with cfg.unlocked():
        cfg.data.sources = tuple(sources)
        cfg.data.update({"max_length": 128, "batch_size": 8, "max_bad_share": 0.0, **data})
    return cfg
