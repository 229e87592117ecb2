"""A tiny data set with its tokenizer, and a chain of runs through the PIVOT stages."""

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
from pivot_jax.train.run import run
from pivot_jax.train.session import Hook

COLOURS = {"red": (200, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 200)}
ROWS = 24


@pytest.fixture(scope="session")
def world(tmp_path_factory) -> Path:
    """Folder with images, ``pairs.json`` (NeXT's DPO format), ``chat.json`` (LLaVA) and ``tokenizer/``."""
    folder = tmp_path_factory.mktemp("world")
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
    return folder


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


def stop_at(*steps: int) -> Hook:
    """An evaluation without metrics that sends SIGTERM to its own process at these steps; the next step is the last."""

    def evaluate(step: int, params: Any) -> dict[str, float]:
        if step in steps:
            os.kill(os.getpid(), signal.SIGTERM)
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
def chain(world, make_config, tmp_path_factory) -> dict[str, Path]:
    """Workdirs of all stages with the default encoder."""
    return run_stages(world, make_config, tmp_path_factory.mktemp("chain"), ("1a", "1b", "sft", "dpo", "3"))
