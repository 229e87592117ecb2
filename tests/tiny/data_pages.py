"""Small data sets of every kind of training, and configs that read them, for the pages of data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pivot_jax import config as configs
from pivot_jax.data.processing.tokenizer import train_bpe

HOSTILE = "</p><script>alert(1)</script><img src=x onerror=alert(2)> {{ 7*7 }} \u2028 & so"
SIZES = ((24, 40), (16, 16), (64, 24))  # height, width of the images, in turn


def world(folder: Path) -> Path:
    """A tokenizer, and images ``0.png`` to ``11.png``; ``copy.png`` has the content of ``0.png``."""
    train_bpe(["What colour is it? It is red, blue or green.", "How many? Two circles."], 330, folder / "tokenizer")
    generator = np.random.default_rng(0)
    for index in range(12):
        height, width = SIZES[index % 3]
        pixels = np.full((height, width, 3), generator.integers(40, 200, 3), np.uint8)
        pixels[: height // 2, : width // 2] += 40
        Image.fromarray(pixels).save(folder / f"{index}.png")
    (folder / "copy.png").write_bytes((folder / "0.png").read_bytes())
    return folder


def config(
    folder: Path, rows: list[Any], form: str = "llava", entry: dict[str, Any] | None = None, **changes: Any
) -> Any:
    """A config whose data are ``rows``, written to a file; ``changes`` are keys with ``__`` for a dot."""
    path = folder / "rows.jsonl"
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    own = {
        "name": "tiny <b>",
        "model.vision": {"image_size": 16, "patch_size": 8, "width": 16, "depth": 3, "heads": 2, "mlp_dim": 32},
        "model.decoder": {"vocab_size": 340, "width": 32, "depth": 2, "heads": 4, "kv_heads": 2, "mlp_dim": 48},
        "tokenizer.path": str(folder / "tokenizer"),
        "data.sources": ({"format": form, "path": str(path), "image_root": str(folder), **(entry or {})},),
        "data.image.size": 16,
        "data.batch_size": 4,
        "data.max_length": 96,
    }
    return configs.load("", own | {key.replace("__", "."): value for key, value in changes.items()})


def conversation(number: int, answer: str = "It is red.", question: str = "What colour is it?", **more: Any) -> dict:
    turns = [{"from": "human", "value": f"<image>\n{question}"}, {"from": "gpt", "value": answer}]
    return {"id": f"row{number}", "image": f"{number % 12}.png", "conversations": turns, **more}


def pair(number: int, chosen: str, rejected: str, **more: Any) -> dict:
    row = {"id": f"pair{number}", "image": f"{number % 12}.png", "question": "What colour is it?"}
    return row | {"chosen": chosen, "rejected": rejected, **more}
