"""easy-VQA as a folder of data: of a drawn package, and the published one where it is installed."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pivot_jax.cli import main as cli
from pivot_jax.data import easy_vqa, sources
from pivot_jax.data.easy_vqa import COLORS, SHAPES, Sizes
from pivot_jax.data.easy_vqa.copies import moved
from pivot_jax.data.sources.prompts import prompts
from pivot_jax.errors import UserError
from pivot_jax.probe.class_sets import classification
from tests.tiny.easy_vqa import RGB, draw, write_package

SIZES = Sizes(val_images=8, copies=2, before_pairs=100, pairs=50, test=30)
PUBLISHED = pytest.mark.skipif(importlib.util.find_spec("easy_vqa") is None, reason="easy-vqa is not installed")


@pytest.fixture
def package(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    return write_package(tmp_path / "site")


def read(path):
    text = path.read_text(encoding="utf-8")
    return json.loads(text) if path.suffix == ".json" else [json.loads(line) for line in text.splitlines()]


def test_the_same_seed_gives_the_same_bytes(package, tmp_path):
    about = easy_vqa.prepare(tmp_path / "a", sizes=SIZES)
    again = easy_vqa.prepare(tmp_path / "b", sizes=SIZES)
    assert about == again and about["images"] == {"train": 40, "test": 10}
    assert about["rows"]["vqa.json"] == 32 * 6 and about["rows"]["val.jsonl"] == 8 * 6
    for path in sorted((tmp_path / "a").rglob("*.json*")):
        assert path.read_bytes() == (tmp_path / "b" / path.relative_to(tmp_path / "a")).read_bytes()
    written = (tmp_path / "a/about.json").stat().st_mtime_ns
    assert easy_vqa.prepare(tmp_path / "a", sizes=SIZES) == about  # it is there, so it is left as it is
    assert (tmp_path / "a/about.json").stat().st_mtime_ns == written
    other = easy_vqa.prepare(tmp_path / "a", seed=1, sizes=SIZES)
    assert other["sha256"] != about["sha256"] and other["images_sha256"] == about["images_sha256"]


def test_no_image_is_in_two_parts(package, tmp_path):
    out = tmp_path / "out"
    easy_vqa.prepare(out, sizes=SIZES)
    images = {
        name: {row["image"] for row in read(out / name)}
        for name in ("captions.json", "stage0.json", "labels.json", "vqa.json", "val.jsonl", "test.jsonl")
    }
    assert not images["vqa.json"] & images["val.jsonl"] and not images["captions.json"] & images["val.jsonl"]
    assert images["stage0.json"] == images["labels.json"]
    assert images["captions.json"] == images["vqa.json"] & images["stage0.json"]
    copied = {Path(image).stem.split("-")[0] for image in images["stage0.json"] - images["captions.json"]}
    assert copied == {Path(image).stem for image in images["captions.json"]}  # none of a validation image
    assert all(image.startswith("images/test/") for image in images["test.jsonl"])
    assert len(images["val.jsonl"]) == 8 and len(read(out / "test.jsonl")) == 30


def test_all_arms_read_the_same_rows(package, tmp_path):
    """SFT, DPO and online RL: the same ids, images and prompts, and the rejected answer is of the chosen one's kind."""
    easy_vqa.prepare(tmp_path / "out", sizes=SIZES)
    pairs = sources.read({"format": "trl", "path": str(tmp_path / "out/pairs.jsonl")})
    asked, rows = prompts(pairs), read(tmp_path / "out/vqa.json")
    following = sources.read({"format": "llava", "path": str(tmp_path / "out/vqa.json")})
    assert [pairs[i].id for i in range(50)] == [row["id"] for row in rows[100:150]]
    for i in range(50):
        pair, prompt, trained = pairs[i], asked[i], following[100 + i]
        assert pair.messages == prompt.messages == trained.messages[:-1] and pair.images == trained.images
        assert prompt.extra["chosen"] == pair.chosen == trained.messages[-1].content != pair.rejected
        assert any({pair.chosen, pair.rejected} <= set(group) for group in (COLORS, SHAPES, ("yes", "no")))


def test_a_copy_has_the_whole_shape_at_another_place():
    rng = np.random.default_rng(0)
    for number in range(20):
        before = np.asarray(draw("teal", "triangle", rng))
        after = moved(before, 0, number, 1)
        assert after.shape == before.shape and after.dtype == np.uint8
        assert Counter(map(tuple, after.reshape(-1, 3))) == Counter(map(tuple, before.reshape(-1, 3)))
        assert (after != before).any() and (moved(before, 0, number, 1) == after).all()
    with pytest.raises(UserError, match="image 7 shows nothing"):
        moved(np.zeros((64, 64, 3), np.uint8), 0, 7)


def check_pixels(folder, rows):
    """The color that a label says is that of most pixels that are not background."""
    for row in rows:
        color, _ = row["conversations"][1]["value"].split()
        pixels = np.asarray(Image.open(folder / row["image"]).convert("RGB")).reshape(-1, 3)
        drawn = [tuple(pixel) for pixel in pixels.tolist() if min(pixel) < 225]
        assert Counter(drawn).most_common(1)[0][0] == RGB[color], row["id"]


def test_captions_say_what_is_drawn(package, tmp_path):
    easy_vqa.prepare(tmp_path / "out", sizes=SIZES)
    labels, captions = (read(tmp_path / "out" / name) for name in ("labels.json", "stage0.json"))
    assert len(labels) == 3 * len(read(tmp_path / "out/captions.json")) == 3 * 32
    check_pixels(tmp_path / "out", labels)
    for label, caption in zip(labels, captions, strict=True):
        words = label["conversations"][1]["value"].split()
        assert all(word in caption["conversations"][1]["value"] for word in words)


def test_class_folders_hold_what_the_questions_say(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    write_package(tmp_path / "site", train=300)  # so many that every class is in the training part
    out = tmp_path / "out"
    easy_vqa.prepare(out, sizes=SIZES)
    splits, names = classification(out / "classes")
    assert {split: len(part) for split, part in splits.items()} == {"train": 292, "val": 8, "test": 10}
    assert all(len(name.split()) == 2 for name in names)
    labels = {row["image"]: row["conversations"][1]["value"] for row in read(out / "labels.json")}
    for path, label in zip(splits["train"].images, splits["train"].labels, strict=True):
        assert labels[f"images/train/{path.name}"] == names[label]
        assert path.read_bytes() == (out / "images/train" / path.name).read_bytes()
    held_out = {Path(row["image"]).name for row in read(out / "val.jsonl")}
    assert {path.name for path in splits["val"].images} == held_out


@PUBLISHED
@pytest.mark.heavy
def test_the_published_package(tmp_path):
    about = easy_vqa.prepare(tmp_path / "out")
    assert about["images"] == {"train": 4000, "test": 1000}
    assert about["rows"] == {
        "captions.json": 3367, "stage0.json": 43771, "labels.json": 43771, "vqa.json": 36704, "pairs.jsonl": 4000,
        "val.jsonl": 1871, "test.jsonl": 2000,
    }  # fmt: skip
    assert about["sha256"]["test.jsonl"] == "5d2c50131061d3654a4a9dcb1b5f38e49cfbd0b0863adf1cf00a1e7809387e88"
    assert about["sha256"]["pairs.jsonl"] == "2085901d5408d6d4a9bc1504a2aff3ec0205d7c1711a24fb10bcf1cd6f6be9a4"
    check_pixels(tmp_path / "out", read(tmp_path / "out/labels.json")[:300])


def test_what_cannot_be_prepared_is_named(package, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(UserError, match=r"190 \+ 50 training and 30 test questions are wanted; .* it has 192 and 60"):
        easy_vqa.prepare(out, sizes=Sizes(8, 1, 190, 50, 30))
    with pytest.raises(UserError, match="easy-VQA: pairs is 0; it must be at least 1"):
        easy_vqa.prepare(out, sizes=Sizes(8, 1, 100, 0, 30))
    assert not out.exists()
    shutil.copy(package / "data/train/images/3.png", package / "data/test/images/1.png")
    with pytest.raises(UserError, match="test image 1 is training image 3; pip install easy-vqa"):
        easy_vqa.prepare(out, sizes=SIZES)
    (package / "data/train/images/3.png").unlink()
    with pytest.raises(UserError, match=r"the installed easy_vqa has no data/train/images/3\.png"):
        easy_vqa.prepare(out, sizes=SIZES)
    questions = package / "data/train/questions.json"
    questions.write_text(json.dumps([["what color is the shape?", "pink", 0]]))
    with pytest.raises(
        UserError, match=r"questions\.json is not that of easy-VQA 1\.0 \(question train-0 has the answ"
    ):
        easy_vqa.prepare(out, sizes=SIZES)
    rows = [["what color is the shape?", color, image] for image in range(3) for color in ("red", "blue")]
    questions.write_text(json.dumps(rows))
    with pytest.raises(UserError, match="about image [0-2] contradict each other"):
        easy_vqa.prepare(out, sizes=Sizes(1, 1, 1, 1, 1))
    assert not out.exists()


def test_the_command(package, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(easy_vqa.prepare, "__defaults__", (0, SIZES))
    assert cli.main(["prepare", "easy-vqa", "--out", str(tmp_path / "out"), "--seed", "3"]) == 0
    shown = capsys.readouterr().out
    assert "easy-vqa, seed 3, 40 + 10 images" in shown and "pairs.jsonl" in shown
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.tex").write_text("x")
    assert cli.main(["prepare", "easy-vqa", "--out", str(tmp_path / "mine")]) == 1
    assert "mine is not empty and was not written by this command" in capsys.readouterr().err
