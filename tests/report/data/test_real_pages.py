"""Pages of configs of the repository: real files at small widths, the demo's scenes, and a model of full size."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import pivot_jax as pj
from pivot_jax import config as configs
from pivot_jax.data import scenes
from pivot_jax.data.processing.tokenizer import train_bpe
from tests.report.reader import read

ROOT = Path(__file__).resolve().parents[3]
SIZES = {"caption": 72, "vqa": 40, "preference": 40}


def numbers_of(spec, out, changes=None):
    path = pj.data_page(configs.load(str(ROOT / "configs" / spec), changes), out, rows=2)
    read(path.read_text())
    return path.read_text(), json.loads((out / "data.json").read_text())


@pytest.mark.parametrize(
    ("spec", "name", "rows", "shown"),
    [
        ("trial/stage1a.py", "llava_pretrain_mini/data.json", 500, "Conversation"),
        ("trial/sft.py", "scienceqa_test_img/data.jsonl", 1000, "Tokens scored"),
        ("trial/dpo.py", "mathvision/preference_pairs.jsonl", 289, "Rejected answer"),
        ("trial/grpo.py", "geometry3k_test_overlay/data.jsonl", 444, "read by math"),
    ],
)
def test_real_files(shared_data, monkeypatch, tmp_path, spec, name, rows, shown):
    if not (shared_data / name).is_file():
        pytest.skip(f"no {name} in {shared_data}")
    monkeypatch.setenv("PIVOT_SHARED_DATA", str(shared_data))
    text, numbers = numbers_of(spec, tmp_path / "out")
    assert numbers["rows"] == rows and numbers["bad_rows"] == 0 and shown in text
    if spec == "trial/dpo.py":
        (warning,) = (one for one in numbers["warnings"] if "longer than the limit of 512 tokens" in one["text"])
        assert "42.9 % of the rows (124)" in warning["text"] and warning["fix"].startswith("Raise data.buckets and")
    if spec == "trial/sft.py":  # every answer is a letter with its end
        assert numbers["lengths"]["scored tokens"]["quantiles"] == [3, 3, 3]
        by_size = {(one["packing"], one["from_data"]): one for one in numbers["packings"]}
        assert by_size[8, True]["positions"] < by_size[1, True]["positions"]


def test_a_model_of_full_size(shared_data, tmp_path):
    """Its parameters would take 14 GB: none is made. The data and the tokenizer are small ones that are here."""
    data = shared_data / "llava_pretrain_mini" / "data.json"
    if not data.is_file():
        pytest.skip(f"no {data}")
    changes = {
        "data.sources": ({"format": "llava", "path": str(data), "sampling": "first:300"},),
        "tokenizer.path": str(shared_data / "qwen2_5_vl_processor"),
    }
    text, numbers = numbers_of("pivot/stage1b.py", tmp_path / "out", changes)
    assert numbers["rows"] == 300 and numbers["lengths"]["image tokens"]["mean"] == 576.0
    assert "model: 384 × 384, 24 × 24 tokens" in text


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """The demo's data with few images."""
    folder = tmp_path_factory.mktemp("demo")
    prepared = scenes.prepare(folder, scenes.World(), SIZES, 0, name="study")
    rows = pj.read_data({"format": "tfds", "path": prepared, "split": "vqa"})
    train_bpe([rows[i].messages[-1].content for i in range(len(rows))], 320, folder / "tokenizer")
    return folder


@pytest.mark.parametrize(
    ("name", "kind", "rows"),
    [("sft", "sft", 40), ("dpo", "preference", 40), ("grpo", "prompt", 40), ("stage0", "contrastive", 72)],
)
def test_the_demo(demo, tmp_path, name, kind, rows):
    text, numbers = numbers_of(f"demo/{name}.py:{demo}", tmp_path / "out")
    assert (numbers["kind"], numbers["rows"] + numbers["bad_rows"]) == (kind, rows)
    assert 'class="sharp"' in text and "32 × 32" in text  # small images are enlarged pixel by pixel
    if kind == "prompt":
        assert "read by text" in text
