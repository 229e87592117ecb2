"""JSON files whose rows are not in memory: where they are is found once for all runs, whatever the file looks like."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest

from pivot_jax.data.sources import json_files
from pivot_jax.data.sources.json_files import JsonLines, JsonList
from pivot_jax.errors import RowError, UserError

STORED = "pivot-jax/indexes/*.npz"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache folder of the test's own, for files of any size, that are read in small pieces."""
    monkeypatch.setattr(json_files, "STORE_FROM", 1)
    monkeypatch.setattr(json_files, "READ_CHUNK", 7)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


LINES = ["{0}\n{1}\n{2}\n", "{0}\n{1}\n{2}", "\n\n{0}\r\n \n{1}\n\t \n\n{2}\n\n", "{0}\n{1}\n{2}\n  "]


@pytest.mark.parametrize("text", LINES)
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
        monkeypatch.setattr(json_files, "_line_breaks", None)  # a second scan would fail


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
        arrays["size"] += 1
        np.savez(stored, **(arrays if damage == "another size" else {"first": arrays["first"]}))
    assert [row["a"] for row in JsonLines(path)] == [1, 2] and "is damaged" in caplog.text


def test_a_rewritten_file_is_read_again(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": 1}\n{"a": 2}\n')
    assert len(JsonLines(path)) == 2
    path.write_text('{"a": 1, "bb": 2}\n')  # of the same size
    os.utime(path, ns=(1, 1))
    assert [row["a"] for row in JsonLines(path)] == [1]


TEXTS = ["red", "ré日本\U0001f600 ]},{", 'quoted " and \\ ,', "\\u00e9", ""]


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("ascii", [True, False])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_rows_of_a_list(tmp_path, monkeypatch, indent, ascii, mark):
    """Pieces of 7 bytes cut rows, strings and characters anywhere."""
    want = [{"n": i, "text": text, "parts": [{"a": [1.5, -2e3, None]}]} for i, text in enumerate(TEXTS)]
    path = tmp_path / "rows.json"
    path.write_text(f"{mark} {json.dumps(want, indent=indent, ensure_ascii=ascii)} \n", encoding="utf-8")
    for _ in range(2):
        rows = JsonList(path)
        assert [rows[i] for i in range(len(rows))] == want and rows.location(3) == "rows.json[3]"
        monkeypatch.setattr(json_files, "_elements", None)  # a second scan would fail


@pytest.mark.parametrize(
    ("text", "want"), [("[]", 0), (" [ ] ", 0), ("[12]", 1), ("[12345678901, {}]", 2), ('["a",\n1]', 2)]
)
def test_lists_of_anything_have_rows_that_are_bad(tmp_path, text, want):
    (tmp_path / "rows.json").write_text(text)
    rows = JsonList(tmp_path / "rows.json")
    assert len(rows) == want
    if want:
        with pytest.raises(RowError, match=r"rows.json\[0\]'.*not an object with named fields"):
            rows[0]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[", "Expecting value, byte 1"),
        ('[{"a": 1}, {', "Expecting property name enclosed in double quotes"),
        ('[{"a": 1} {"a": 2}]', "',' expected, byte 10"),
        ('[{"a": 1},]', "Expecting value|Illegal trailing comma"),
        ('[{"a": 1}] x', "'the end' expected, byte 11"),
        ('[{"a": "unended}]', "Unterminated string starting at, byte 7"),
        (b'[{"a": "\xff\xfe"}]', "can't decode byte 0xff"),
        ("[" * 100_000, "recursion"),
    ],
)
def test_what_is_no_list_is_an_error(tmp_path, text, reason):
    path = tmp_path / "rows.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=f"rows.json: not a JSON list .*({reason})"):
        JsonList(path)
