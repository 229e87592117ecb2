"""A subset of MMPR: which rows, their hash, and what is said where it cannot be drawn."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from pivot_jax.cli import main as cli
from pivot_jax.data import sources, subset
from pivot_jax.errors import UserError


@pytest.fixture
def meta(tmp_path):
    """Two subsets of 30 rows each, long and short answers in turn."""
    root, entries = tmp_path / "MMPR", {}
    for name in ("vqa", "cot"):
        (root / "images" / name).mkdir(parents=True)
        lines = []
        for i in range(30):
            Image.new("RGB", (4, 4), (i, 5, 9)).save(root / "images" / name / f"{i}.png")
            answer = "yes " * (40 if i % 2 else 2)
            row = {"image": f"{i}.png", "question": f"{name} {i}?", "chosen": answer, "rejected": "no"}
            lines.append(json.dumps(row))
        (root / f"{name}.jsonl").write_text("\n".join(lines))
        entries[name] = {"root": f"images/{name}", "annotation": f"{name}.jsonl", "length": 30, "repeat_time": 1}
    (root / "meta.json").write_text(json.dumps(entries))
    return root / "meta.json"


def rows(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / subset.ROWS).read_text().splitlines()]


def test_the_same_seed_gives_the_same_rows_and_smaller_subsets_are_parts(meta, tmp_path):
    about = subset.write_subset(meta, tmp_path / "a", 20, seed=3)
    again = subset.write_subset(meta, tmp_path / "b", 20, seed=3)
    assert about == again and rows(tmp_path / "a") == rows(tmp_path / "b")
    subset.write_subset(meta, tmp_path / "c", 8, seed=3)
    assert rows(tmp_path / "c") == rows(tmp_path / "a")[:8]
    assert subset.write_subset(meta, tmp_path / "d", 20, seed=4)["content"] != about["content"]


def test_the_content_hash_is_of_texts_and_pixels_and_not_of_places(meta, tmp_path):
    about = subset.write_subset(meta, tmp_path / "a", 60)
    moved = shutil.copytree(meta.parent, tmp_path / "elsewhere") / "meta.json"
    assert subset.write_subset(moved, tmp_path / "b", 60)["content"] == about["content"]
    Image.new("RGB", (4, 4), (200, 5, 9)).save(moved.parent / "images" / "vqa" / "0.png")
    assert subset.write_subset(moved, tmp_path / "c", 60)["content"] != about["content"]


def test_a_config_reads_it_as_it_reads_mmpr(meta, tmp_path):
    about = subset.write_subset(meta, tmp_path / "a", 20, seed=3)
    path = str(tmp_path / "a" / subset.ROWS)
    found = sources.read({"format": "mmpr", "path": path, "image_root": about["image_root"]})
    drawn = sources.read({"format": "mmpr", "path": str(meta), "sampling": "random:20", "seed": 3})
    for one, other in ((found[i], drawn[i]) for i in range(20)):
        assert (one.id, one.messages, one.chosen, one.rejected) == (
            other.id,
            other.messages,
            other.chosen,
            other.rejected,
        )
        assert [Path(image).resolve() for image in one.images] == [Path(image).resolve() for image in other.images]


def test_a_filter_comes_before_the_draw(meta, tmp_path):
    subset.write_subset(meta, tmp_path / "a", 30, rule="under30")
    assert all(len(row["chosen"].split()) < 30 for row in rows(tmp_path / "a"))
    with pytest.raises(UserError, match=r"--rows: 31, but .*meta.json has 30 rows that 'under30' keeps"):
        subset.write_subset(meta, tmp_path / "b", 31, rule="under30")


def test_a_missing_image_is_named(meta, tmp_path):
    (meta.parent / "images" / "cot" / "7.png").unlink()
    with pytest.raises(UserError, match=r"row .*cot/7.png: No such file .*download the images"):
        subset.write_subset(meta, tmp_path / "a", 60)
    assert not (tmp_path / "a").exists()


def test_the_command(meta, tmp_path, capsys):
    command = ["prepare", "mmpr", "--source", str(meta), "--out", str(tmp_path / "out"), "--rows", "10"]
    assert cli.main(command) == 0
    out = capsys.readouterr().out
    assert "10 pairs, seed 0, content " in out and "'image_root': " in out
    assert cli.main(command) == 1
    assert "add --overwrite" in capsys.readouterr().err
    assert cli.main([*command, "--overwrite"]) == 0
