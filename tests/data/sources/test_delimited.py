"""TSV and CSV files: cells that span lines, images in cells, and files that are not whole."""

from __future__ import annotations

import csv
import gzip
import random

import pytest

from pivot_jax.data.sources import read
from pivot_jax.data.sources.rows import open_rows
from pivot_jax.errors import UserError

HEADER = ["index", "question", "A", "image"]


def written(path, rows, header=HEADER, delimiter="\t", **options):
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter=delimiter, lineterminator="\r\n", **options)
        writer.writerows([header, *rows])
    return path


def test_cells_span_lines_and_hold_quotes(tmp_path):
    code = 'x = ["a",\t"b"]\r\n\n  print("done")\n'
    rows = [["1", code, "", "A" * 200_000], ["2", 'say "yes"', 'a "b', "é\u2028次"]]
    for name, delimiter in (("a.tsv", "\t"), ("a.csv", ",")):
        found = open_rows(written(tmp_path / name, rows, delimiter=delimiter))
        assert len(found) == 2 and found.columns == tuple(HEADER)
        assert found[0] == {"index": "1", "question": code, "A": None, "image": "A" * 200_000}
        assert list(found[1].values()) == rows[1]
        assert [found.location(i) for i in range(2)] == [f"{name}:2", f"{name}:6"]
    everything = written(tmp_path / "all.tsv", rows, quoting=csv.QUOTE_ALL)  # as VLMEvalKit writes predictions
    assert [*open_rows(everything)] == [*open_rows(tmp_path / "a.tsv")]


def test_any_text_is_read_as_it_was_written(tmp_path):
    draw = random.Random(0)
    texts = [["".join(draw.choices("ab\t,\"\n\r'é 1", k=1 + draw.randrange(12))) for _ in range(3)] for _ in range(500)]
    rows = [[str(i), *text] for i, text in enumerate(texts)]
    for delimiter, name in (("\t", "a.tsv"), (",", "a.csv")):
        found = open_rows(written(tmp_path / name, rows, delimiter=delimiter))
        assert [list(row.values()) for row in found] == rows
        lines = (tmp_path / name).read_bytes().split(b"\n")
        starts = [lines[int(found.location(i).rpartition(":")[2]) - 1] for i in range(500)]
        assert all(line.startswith(f"{i}{delimiter}".encode()) for i, line in enumerate(starts))


def test_compressed_marked_and_blank_lines(tmp_path):
    written(tmp_path / "a.tsv", [["1", "q", "a", "i"]])
    content = (tmp_path / "a.tsv").read_bytes()
    (tmp_path / "b.tsv").write_bytes(b"\xef\xbb\xbf" + content.replace(b"\r\n", b"\n") + b"\n\n")
    (tmp_path / "c.tsv.gz").write_bytes(gzip.compress(content))
    (tmp_path / "d.tsv").write_bytes(content.rstrip())
    for name in ("b.tsv", "c.tsv.gz", "d.tsv"):
        assert [*open_rows(tmp_path / name)] == [*open_rows(tmp_path / "a.tsv")], name


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a\tb\n1\t2\n3\t", None),  # the last cell is empty, not missing
        ("a\tb\n1\t2\n3", "a.tsv:3: the row has 1 of 2 cells; the file is truncated"),
        ("a\tb\n1\t2\t3\n4\t5\n", "a.tsv:2: the row has 3 of 2 cells"),
        ('a\tb\n1\t2\n3\t"4\n5\t6\n', "a.tsv:3: a quote in this row is never closed; the file is truncated"),
        ("a\tb\n1\t2\r3\n", "a.tsv:2: the row is not well formed .new-line character"),
        ('a\tb\n1\t"2"3"\n', "a.tsv:2: the row is not well formed"),
        ("a\ta\n1\t2\n", "a.tsv:1: two columns are named 'a'"),
        ("\ta\n0\t2\n", r"a.tsv:1: column 1 has no name; .*pandas"),
        ("", "a.tsv: it is empty"),
        ("\n\n", "a.tsv: it is empty"),
        (b"a\tb\n1\t\xff\n", "a.tsv:2: not UTF-8"),
    ],
)
def test_files_that_are_not_whole(tmp_path, text, words):
    (tmp_path / "a.tsv").write_bytes(text if isinstance(text, bytes) else text.encode())
    if words is None:
        assert open_rows(tmp_path / "a.tsv")[1] == {"a": "3", "b": None}
        return
    with pytest.raises(UserError, match=words) as caught:
        open_rows(tmp_path / "a.tsv")
    assert "\n" not in str(caught.value) and str(tmp_path) in str(caught.value)


def test_a_tsv_is_a_source(tmp_path):
    (tmp_path / "a.tsv").write_text("id\tquestion\tanswer\n1\t1 + 1?\t2\n\t2 + 2?\t4\n")
    source = read({"format": "qa", "path": str(tmp_path / "a.tsv")})
    assert [source[i].id for i in range(2)] == ["1", "a.tsv:3"] and source[1].messages[1].content == "4"


def test_real_mmbench(shared_data):
    folder = shared_data / "benchmark_samples" / "mmbench"
    if not folder.is_dir():
        pytest.skip(f"no rows of MMBench in {folder}")
    found, rows = open_rows(folder / "MMBench_sample.tsv"), open_rows(folder / "rows.jsonl")
    assert len(found) == len(rows) == 19
    for own, want in zip(found, rows, strict=True):
        want = {key: str(value) for key, value in want.items() if value not in ("", None) and key != "image"}
        assert {key: value for key, value in own.items() if value is not None and key != "image"} == want
        assert len(own["image"]) > 1000
