"""Indexes of large data sets: shared by runs, made again when they do not hold, and no larger together than a limit."""

from __future__ import annotations

import os
import time

import numpy as np
import pytest

from pivot_jax.data import array_cache
from pivot_jax.data.loading import index_cache
from tests.data.conftest import config, llava_row, write_jsonl
from tests.data.loading.test_loader import load, same

STORED = "pivot-jax/indexes/*.npz"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache folder of the test's own, for data sets of any size."""
    monkeypatch.setattr(index_cache, "STORE_FROM", 1)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


@pytest.fixture
def rows(tmp_path, image_folder):
    """Config entry of 40 conversations with images."""
    path = write_jsonl(tmp_path / "rows.jsonl", [llava_row(i) for i in range(40)])
    return {"format": "llava", "path": path, "image_root": str(image_folder)}


def test_a_stored_index_is_made_anew_when_a_missing_image_appears(image_folder, rows, tokenizer, tmp_path, monkeypatch):
    there = (image_folder / "7.png").read_bytes()
    (image_folder / "7.png").unlink()
    for _ in range(2):
        assert load(config(rows, max_bad_share=0.1), tokenizer, workdir=tmp_path / "w").rows == 39
    (image_folder / "7.png").write_bytes(there)
    assert load(config(rows, max_bad_share=0.1), tokenizer, workdir=tmp_path / "w").rows == 40
    assert len(list(tmp_path.glob(STORED))) == 1


def test_index_of_a_large_set_is_stored_and_used_again(rows, tokenizer, tmp_path, monkeypatch):
    cfg = config(rows)
    first = load(cfg, tokenizer, workdir=tmp_path / "one")
    assert len(list(tmp_path.glob(STORED))) == 1
    with monkeypatch.context() as patch:
        patch.setattr(index_cache, "build_index", None)  # a second pass would fail
        other = config(rows, cache_rows_mib=0, batch_size=4)
        other.tokenizer.path = "the same tokenizer in another folder"
        for again in (cfg, other):
            second = load(again, tokenizer, workdir=tmp_path / "two")
            assert np.array_equal(first.data.index.lengths, second.data.index.lengths)
            if again is cfg:
                assert first.fingerprint() == second.fingerprint()
                assert all(same(a, b) for a, b in zip(first, second, strict=True))
    load(config(rows, loss_mask="pivot"), tokenizer)  # another mask, another index
    assert len(list(tmp_path.glob(STORED))) == 2


@pytest.mark.parametrize("damage", ["empty", "half", "a byte", "other rows", "no array", "a list"])
def test_a_damaged_index_is_made_again(rows, tokenizer, tmp_path, monkeypatch, caplog, damage):
    want = load(config(rows), tokenizer).fingerprint()
    (path,) = tmp_path.glob(STORED)
    content = path.read_bytes()
    if damage in ("empty", "half", "a list"):
        path.write_bytes({"empty": b"", "half": content[: len(content) // 2], "a list": b"[1]"}[damage])
    elif damage == "a byte":
        middle = content.index(b"lengths") + 150
        path.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
    else:
        arrays = dict(np.load(path))
        arrays["source_rows"][0] += 1
        np.savez(path, **(arrays if damage == "other rows" else {"bad": arrays["bad"]}))
    assert load(config(rows), tokenizer).fingerprint() == want
    assert "is damaged" in caplog.text
    caplog.clear()
    monkeypatch.setattr(index_cache, "build_index", None)
    assert load(config(rows), tokenizer).fingerprint() == want and "is damaged" not in caplog.text


def test_the_index_that_was_not_used_for_longest_goes(rows, tokenizer, tmp_path, monkeypatch):
    def age(path, hours: int):
        os.utime(path, (time.time() - 3600 * hours,) * 2)

    stored = lambda: set(tmp_path.glob(STORED))  # noqa: E731
    load(config(rows), tokenizer)
    (first,) = stored()
    monkeypatch.setattr(array_cache, "LIMIT", int(2.5 * first.stat().st_size))
    load(config(rows, loss_mask="pivot"), tokenizer)
    (second,) = stored() - {first}
    age(first, 9)
    age(second, 5)
    load(config(rows), tokenizer)  # the first is used again
    load(config(rows, max_length=64), tokenizer)
    (third,) = stored() - {first}
    assert stored() == {first, third} and third != second


def test_a_cache_that_cannot_be_written_is_not_needed(rows, tokenizer, tmp_path, monkeypatch, caplog):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert load(config(rows), tokenizer).rows == 40 and "not kept for other runs" in caplog.text
