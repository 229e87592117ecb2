"""What MAYE's recipes read, in the forms in which it is published: checkpoints, problems and figures.

Checkpoints are of the recipes' models with fewer and narrower layers. Vocabulary, tokenizer, chat template, M-RoPE,
patches and windows are the real ones, and so are problems and figures.
"""

from __future__ import annotations

import dataclasses
import io
import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from pivot_jax import config as configs
from pivot_jax import hub
from pivot_jax.data.processing.images import load
from pivot_jax.data.processing.tokenizer import load_tokenizer
from pivot_jax.models import zoo
from tests.tiny import qwen

TOKENIZER = "qwen2_5_vl_processor"  # Qwen2-VL has the same vocabulary and template
FILES = (
    "tokenizer_config.json", "vocab.json", "merges.txt", "chat_template.json", "preprocessor_config.json",
    "generation_config.json",
)  # fmt: skip
TRAIN, HELD_OUT = 32, 4  # problems
SIZES = {"mm_math_rl": TRAIN, "mm_math_validation": HELD_OUT}  # in place of the paper's
# Heads are 128 wide, as in the models: M-RoPE's sections are of such a head.
DECODER = {"width": 128, "depth": 2, "heads": 1, "kv_heads": 1, "mlp_dim": 256}
VISION = {"width": 32, "depth": 2, "heads": 2, "mlp_dim": 64}
FULL_BLOCKS = (1,)  # the other block of Qwen2.5-VL's attends within windows


def dimensions(name: str) -> tuple[Any, Any]:
    """(encoder, decoder): the model of this name with the sizes of above."""
    tower = zoo.VISION[name]
    blocks = {"full_blocks": FULL_BLOCKS} if tower.windowed else {}
    return dataclasses.replace(tower, **VISION, **blocks), dataclasses.replace(zoo.DECODERS[name], **DECODER)


def reduced(name: str) -> dict[str, Any]:
    """Keys that make the model of a recipe's config as small as its checkpoint here."""
    found: dict[str, Any] = {}
    for part, one in zip(("vision", "decoder"), dimensions(name), strict=True):
        section = configs.base().model[part].to_dict()
        values = {key: value for key, value in dataclasses.asdict(one).items() if key in section}
        kept = {key: value for key, value in values.items() if key not in (*zoo.OWN, "rope_scaling")}
        found |= {f"model.{part}.{key}": value for key, value in ({"name": ""} | kept).items()}
    return found


def checkpoint(name: str, folder: Path, shared_data: Path) -> None:
    """Random weights of transformers' model, with the real tokenizer beside them."""
    folder.mkdir(parents=True)
    for file in FILES:
        shutil.copyfile(shared_data / TOKENIZER / file, folder / file)
    tower, decoder = dimensions(name)
    text = {
        "hidden_size": decoder.width,
        "intermediate_size": decoder.mlp_dim,
        "num_hidden_layers": decoder.depth,
        "num_attention_heads": decoder.heads,
        "num_key_value_heads": decoder.kv_heads,
        "vocab_size": decoder.vocab_size,
        "max_position_embeddings": decoder.max_positions,
        "tie_word_embeddings": decoder.tied,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": decoder.rope_theta,
            "mrope_section": list(decoder.mrope_section),
        },
    }
    vision: dict[str, Any] = {"depth": tower.depth, "num_heads": tower.heads, "patch_size": tower.patch_size}
    if tower.windowed:
        vision |= {"hidden_size": tower.width, "intermediate_size": tower.mlp_dim, "window_size": tower.window}
        vision |= {"fullatt_block_indexes": list(tower.full_blocks)}
    else:
        vision |= {"embed_dim": tower.width, "mlp_ratio": tower.mlp_dim // tower.width}
    qwen.model(tower.family, load_tokenizer(folder), vision=vision, text=text).save_pretrained(folder)
    found = hub.read_config(folder)
    assert (found.vision, found.decoder) == (tower, decoder)


def publish(folder: Path, shared_data: Path) -> None:
    """``MM_Math`` of K12 problems and ``geometry3k``, in the forms in which their authors publish them.

    Problems to train on have an answer of one digit: a small model gets some right by guessing.
    """
    _mm_math(folder / "MM_Math", shared_data / "k12_math_mini")
    _geometry3k(folder / "geometry3k/data", shared_data)


def _mm_math(folder: Path, problems: Path) -> None:
    (folder / "Image").mkdir(parents=True)
    lines = []
    for row in json.loads((problems / "data.json").read_text()):
        image, answer = problems / row["image_path"], row["answer"].strip("$. ")
        if len(answer) == 1 and answer.isdigit():
            shutil.copyfile(image, folder / "Image" / image.name)
            solution = f"\\boxed{{{answer}}}"
            one = {"question": row["question"], "file_name": image.name, "solution": solution, "year": "7"}
            lines.append(json.dumps(one) + "\n")
    (folder / "MM_Math.jsonl").write_text("".join(lines))


def _geometry3k(folder: Path, shared_data: Path) -> None:
    folder.mkdir(parents=True)
    problems = shared_data / "geometry3k_test_overlay"
    rows = [json.loads(line) for line in (problems / "data.jsonl").read_text().splitlines()]
    found = [
        (problems / row["image"], row["question"], f"{row['answer_value']:.0f}")
        for row in rows
        if row["answer_value"] in range(10)
    ]
    _split(folder, "train", found[:TRAIN])
    problems = shared_data / "geometry3k_mini"
    rows = json.loads((problems / "data.json").read_text())
    found = [(problems / row["image"], row["question"], row["answer_value"]) for row in rows]
    _split(folder, "validation", found[:HELD_OUT])
    _split(folder, "test", found[HELD_OUT : 2 * HELD_OUT])


def _split(folder: Path, name: str, problems: list[tuple[Path, str, str]]) -> None:
    columns = {
        "images": [[{"bytes": _png(image), "path": None}] for image, _, _ in problems],
        "problem": [f"<image>{question}" for _, question, _ in problems],
        "answer": [answer for _, _, answer in problems],
    }
    pyarrow.parquet.write_table(pyarrow.table(columns), folder / f"{name}-00000-of-00001.parquet")


def _png(path: Path) -> bytes:
    packed = io.BytesIO()
    load(path).save(packed, format="PNG")
    return packed.getvalue()
