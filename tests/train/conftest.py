"""A tiny data set with its tokenizer, and runs on it: a chain through the PIVOT stages, LoRA adapters.

They are made once per session and shared by all processes: a test that changes a run copies it first.
"""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pivot_jax import config as configs
from pivot_jax.data.processing.tokenizer import train_bpe
from pivot_jax.train.extract import extract
from pivot_jax.train.metrics import read
from pivot_jax.train.run import run
from pivot_jax.train.session import Hook
from tests.tiny import runs

COLOURS = {"red": (200, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 200)}
ROWS = 24
LORA = {
    "lora__rank": 2,
    "lora__targets": (
        ("vision/blocks/attn/q/kernel", "lora"),
        ("decoder/blocks/attn/.*/kernel", 3),
        ("decoder/blocks/mlp/up/kernel", "lora"),
        (".*", "none"),
    ),
    "optimizer__rules": (("vision/.*", 1e-3), (".*", 1e-2)),
}
QWEN = dict(
    model__vision__family="qwen2_5_vl", model__vision__activation="silu", model__vision__patch_size=4,
    model__vision__depth=2, model__vision__window=16, model__vision__full_blocks=(1,),
    model__decoder__mrope_section=(2, 1, 1), data__image__preset="qwen2_5_vl", data__image__max_patches=48,
    data__image__min_pixels=128, data__image__max_pixels=640, data__images_per_row=2,
)  # fmt: skip


@pytest.fixture(scope="session")
def world() -> Path:
    """Folder with images, ``pairs.json`` (NeXT's DPO format), ``chat.json`` (LLaVA) and ``tokenizer/``."""
    return runs.once("world", draw)


def draw(folder: Path) -> None:
    rng = np.random.default_rng(0)
    names = list(COLOURS)
    pairs, chats, texts = [], [], []
    for i in range(ROWS):
        colour, other = names[i % 3], names[(i + 1 + i % 2) % 3]
        pixels = np.clip(np.asarray(COLOURS[colour]) + rng.normal(0, 20, (16, 16, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
        question = f"What colour is picture {i % 5}?"
        row = {"id": f"row{i}", "image": f"{i}.png"}
        pairs.append(row | {"prompt": question, "chosen": f"It is {colour}.", "rejected": f"It is {other}."})
        turns = [{"from": "human", "value": f"<image>\n{question}"}, {"from": "gpt", "value": f"It is {colour}."}]
        chats.append(row | {"conversations": turns})
        texts += [question, f"It is {colour}.", "You are a helpful assistant. system user assistant"]
    (folder / "pairs.json").write_text(json.dumps(pairs))
    (folder / "chat.json").write_text(json.dumps(chats))
    train_bpe(texts, 320, folder / "tokenizer")


@pytest.fixture(scope="session")
def make_config(world):
    """Function (overrides by dotted key) → config of a tiny run on ``world``; all mesh axes 1 but data."""

    def make(**changes):
        config = configs.base()
        tiny = {
            "model.vision.image_size": 16, "model.vision.width": 16, "model.vision.depth": 3, "model.vision.heads": 2,
            "model.vision.mlp_dim": 32, "model.decoder.vocab_size": 320, "model.decoder.width": 32,
            "model.decoder.depth": 2, "model.decoder.mlp_dim": 48, "tokenizer.path": str(world / "tokenizer"),
            "data.image.size": 16, "data.batch_size": 8, "data.sources": (source(world, "llava"),),
            "train.log_every": 1, "train.checkpoint_every": 4, "train.steps": 3,
            "optimizer.warmup_ratio": 0.0,
        }  # fmt: skip
        for key, value in (tiny | {k.replace("__", "."): v for k, v in changes.items()}).items():
            configs.merge(config, {key: value})
        configs.validate(config)
        return config

    return make


def source(world: Path, kind: str) -> dict:
    name = {"llava": "chat.json", "next_dpo": "pairs.json"}[kind]
    return {"format": kind, "path": str(world / name), "image_root": str(world)}


def stop_at(*steps: int, number: int = signal.SIGTERM) -> Hook:
    """An evaluation without metrics that sends its own process a signal at these steps; the next step is the last."""

    def evaluate(step: int, params: Any) -> dict[str, float]:
        if step in steps:
            os.kill(os.getpid(), number)
        return {}

    return Hook("stop", evaluate)


def run_stages(world: Path, make_config, root: Path, names: tuple[str, ...], **model: Any) -> dict[str, Path]:
    """Workdirs of the named stages of 1a, 1b, 2-SFT, 2-DPO and 3 (projector reuse 1), run in this order in ``root``.

    Stage 1b starts from 1a if that is among them. With stage 3 there is also the "pack" of the DPO encoder.

    Args:
      model: overrides of every stage's config.
    """
    pairs = (source(world, "next_dpo"),)
    only_projector = (("projector/.*", 1e-2), (".*", "frozen"))
    encoder_frozen = (("(vision|second)/.*", "frozen"), ("projector/fc1/.*", "frozen"), (".*", 1e-3))
    all_of = {name: {"": f"run:{root / name}"} for name in ("1a", "1b")}
    reused = {prefix: f"pack:{root / 'pack'}" for prefix in ("vision", "projector/fc1")}
    if model.get("model__second__kind", "none") != "none":
        reused["second"] = reused["vision"]
    stages: dict[str, dict[str, Any]] = {
        "1a": dict(optimizer__rules=only_projector),
        "1b": dict(optimizer__rules=(("vision/.*", 2e-4), (".*", 1e-3)), init=all_of["1a"] if "1a" in names else {}),
        "sft": dict(init=all_of["1b"], data__sources=pairs),
        "dpo": dict(init=all_of["1b"], data__sources=pairs, objective__name="dpo"),
        "3": dict(optimizer__rules=encoder_frozen, init=reused, model__projector__reuse=1, model__projector__layers=1),
    }
    for name in names:
        if name == "3":
            extract(root / "dpo", root / "pack")
        run(make_config(name=name, **(model | stages[name])), root / name)
    return {name: root / name for name in [*names, *(["pack"] if "3" in names else [])]}


@pytest.fixture(scope="session")
def chain(world, make_config) -> dict[str, Path]:
    """Workdirs of all stages with the default encoder."""
    names = ("1a", "1b", "sft", "dpo", "3")
    folder = runs.once("chain", lambda folder: run_stages(world, make_config, folder, names))
    return {name: folder / name for name in (*names, "pack")}


@pytest.fixture(scope="session")
def lora_runs(make_config) -> Path:
    """Folder of two runs: a random "base", and "adapted", SFT with adapters on it."""

    def train(folder: Path) -> None:
        run(make_config(train__steps=1), folder / "base")
        run(make_config(init={"": f"run:{folder / 'base'}"}, **LORA), folder / "adapted")

    return runs.once("lora", train)


@pytest.fixture(scope="session")
def qwen_sources() -> dict[str, dict[str, str]]:
    """Rows with one and two images of several sizes: chats and pairs."""
    folder = runs.once("qwen", draw_sizes)
    return {
        name: {"format": "trl", "path": str(folder / f"{name}.jsonl"), "image_root": str(folder)}
        for name in ("chats", "pairs")
    }


def draw_sizes(folder: Path) -> None:
    rng = np.random.default_rng(0)
    chats, pairs = [], []
    for i in range(16):
        names = [f"{i}-{j}.png" for j in range(1 + i % 2)]
        for name in names:
            height, width = rng.integers(8, 40, 2)
            Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(folder / name)
        question, answer = "<image>\n" * len(names) + "What colour is picture 1?", ["It is red.", "It is blue."]
        images = [{"role": "user", "content": question}]
        chats.append({"messages": [*images, {"role": "assistant", "content": answer[0]}], "images": names})
        pairs.append(
            {"prompt": images, "chosen": answer[i % 2], "rejected": answer[1 - i % 2] + " Yes.", "images": names}
        )
    for name, rows in (("chats", chats), ("pairs", pairs)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def losses(workdir: Path) -> list[float]:
    return [line["loss"] for line in read(workdir / "metrics.jsonl")]
