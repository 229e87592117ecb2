"""Where the lines of a large JSON Lines file break: found once for all runs, whatever the file's end and blank lines."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest

from pivot_jax.data.sources import rows as lines
from pivot_jax.data.sources.rows import JsonLines
from pivot_jax.errors import RowError

STORED = "pivot-jax/indexes/*.npz"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache folder of the test's own, for files of any size, that are read in small pieces."""
    monkeypatch.setattr(lines, "STORE_FROM", 1)
    monkeypatch.setattr(lines, "READ_CHUNK", 7)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


@pytest.mark.parametrize("text", ["{0}\n{1}\n{2}\n", "{0}\n{1}\n{2}", "\n\n{0}\r\n \n{1}\n\t \n\n{2}\n\n", "{0}\n{1}\n{2}\n  "])
def test_rows_and_their_lines(tmp_path, text, monkeypatch):
    path = tmp_path / "rows.jsonl"
    path.write_text(text.format(*(json.dumps({"n": i}) for i in range(3))), newline="")
    want = [i + 1 for i, line in enumerate(text.split("\n")) if line.strip()]
    for _ in range(2):
        rows = JsonLines(path)
        assert [rows[i]["n"] for i in range(len(rows))] == [0, 1, 2]
        assert [rows.location(i) for i in range(3)] == [f"rows.jsonl:{line}" for line in want]
        with pytest.raises(IndexError):
            rows[3]
        monkeypatch.setattr(lines, "_scan", None)  # a second scan would fail


def test_an_empty_file_has_no_rows(tmp_path):
    (tmp_path / "rows.jsonl").write_text("")
    assert len(JsonLines(tmp_path / "rows.jsonl")) == 0


def test_a_malformed_line_names_its_place(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"a": 1}\n\nnot JSON\n')
    with pytest.raises(RowError, match=r"rows.jsonl:3'.*malformed JSON line"):
        JsonLines(tmp_path / "rows.jsonl")[1]


@pytest.mark.parametrize("damage", ["empty", "another size", "no array"])
def test_a_damaged_index_is_made_again(tmp_path, caplog, damage):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": 1}\n{"a": 2}\n')
    JsonLines(path)
    (stored,) = tmp_path.glob(STORED)
    if damage == "empty":
        stored.write_bytes(b"")
    else:
        arrays = dict(np.load(stored))
        arrays["breaks"][-1] += damage == "another size"
        np.savez(stored, **(arrays if damage == "another size" else {"blank": arrays["blank"]}))
    assert [row["a"] for row in JsonLines(path)] == [1, 2] and "is damaged" in caplog.text


def test_a_rewritten_file_is_read_again(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": 1}\n{"a": 2}\n')
    assert len(JsonLines(path)) == 2
    path.write_text('{"a": 1, "bb": 2}\n')  # of the same size
    os.utime(path, ns=(1, 1))
    assert [row["a"] for row in JsonLines(path)] == [1]
