"""Cells of published rows: options, answers, ids, images, in every form, and messages that name row and column."""

from __future__ import annotations

import base64
import io
import json
import math

import pytest
from PIL import Image

from pivot_jax.data.sources.base import ImageRoot
from pivot_jax.data.sources.rows import MemoryRows, open_rows
from pivot_jax.errors import RowError, UserError
from pivot_jax.eval.benchmarks.cells import (
    NAN,
    PANDAS,
    letter_answer,
    literal_list,
    optional_text,
    options,
    row_name,
    unique_ids,
)
from pivot_jax.eval.benchmarks.image_cells import TsvImages, images


def encoded(color, form="PNG") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (4, 3), color).save(file, form)
    return file.getvalue()


RED, BLUE = encoded("red"), encoded("blue", "JPEG")
RED64, BLUE64 = base64.b64encode(RED).decode(), base64.b64encode(BLUE).decode()


@pytest.fixture(scope="module")
def samples(shared_data):
    folder = shared_data / "benchmark_samples"
    if not folder.is_dir():
        pytest.skip(f"no rows of benchmarks in {folder}")
    return folder


# ---- options


LISTED = ["It's 3", 'say "5"', "7"]


@pytest.mark.parametrize("cell", [LISTED, tuple(LISTED), json.dumps(LISTED), repr(LISTED), f" {LISTED!r}\n"])
def test_options_of_a_list(cell):
    assert options({"options": cell}, "r", "options") == dict(zip("ABC", LISTED, strict=True))


def test_options_of_letter_columns():
    row = {"A": "x", "B": "None", "C": "nan", "D": math.nan, "E": "", "F": "y", "question": "q", "I": None}
    assert options(row, "r") == {"A": "x", "B": "None", "C": "nan", "F": "y"}
    assert options(row, "r", missing=NAN) == {"A": "x", "B": "None", "F": "y"}  # lmms-eval
    assert options(row, "r", missing=PANDAS) == {"A": "x", "F": "y"}  # VLMEvalKit
    assert options({"A": 3, "B": 0}, "r") == {"A": "3", "B": "0"}
    for none in (None, math.nan, "", [], "[]"):
        assert options({"choices": none}, "r", "choices") == {}


def test_missing_texts_are_those_of_pandas():
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    file = io.StringIO("A\tB\n" + "".join(f"x\t{text}\n" for text in [*sorted(PANDAS), "none", "nil", " nan", "0"]))
    missing = pandas.read_csv(file, sep="\t", skip_blank_lines=False)["B"].isna()
    assert missing.tolist() == [True] * len(PANDAS) + [False] * 4


@pytest.mark.parametrize(
    ("cell", "words"),
    [
        ([str(i) for i in range(100)], "row 'f.tsv:3': column 'options' has 100 options, and there are 26 letters"),
        (json.dumps([str(i) for i in range(27)]), "column 'options' has 27 options"),
        ("(a) x (b) y", r"column 'options' is '\(a\) x \(b\) y', not a list of options"),
        ("['a', 'b'", "not a list of options"),
        ('{"A": "x"}', "not a list of options"),
        ("[" * 5000, r"column 'options' is .*… \(5002 characters\), not a list"),
        (7, "column 'options' is 7, not a list"),
        (["a", None], "column 'options' has the option None; each is a text or a number"),
        (["a", ["b"]], r"has the option \['b'\]"),
    ],
)
def test_cells_that_are_no_options(cell, words):
    with pytest.raises(RowError, match=words) as caught:
        options({"options": cell}, "f.tsv:3", "options")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


def test_literal_lists_are_data_not_code():
    assert literal_list("[1, 'a', None]") == [1, "a", None] and literal_list('["a", null]') == ["a", None]
    for text in ("[__import__('os').getcwd()]", "[x for x in (1, 2)]", "no list", "", "('a', 'b')"):
        assert literal_list(text) is None


# ---- answers


CHOICES = ["a dog", "no dog", "B or C", "12"]


@pytest.mark.parametrize(
    ("value", "want"),
    [(0, "A"), (3, "D"), ("1", "B"), (" 2 ", "C"), ("B", "B"), ("(b)", "B"), ("b.", "B"), ("D)", "D"), ("(C).", "C"),
     ("a dog", "A"), ("A DOG", "A"), ("B or C", "C"), ("12", "D"), (12, "D"), (" no dog\n", "B")],
)  # fmt: skip
def test_answers_in_every_form(value, want):
    assert letter_answer(value, CHOICES, "r") == want
    assert letter_answer(value, dict(zip("ABCD", CHOICES, strict=True)), "r") == want


def test_the_form_of_answers_decides_where_options_are_letters_or_numbers():
    """AI2D: the answer is an index, and options are numbers."""
    counts = ["3", "5", "6", "4"]
    assert letter_answer("3", counts, "r", "index") == "D" and letter_answer("3", counts, "r", "text") == "A"
    with pytest.raises(
        RowError, match=r"row 'r': column 'answer' is '3', which can be A or D .*'A: 3, B: 5, C: 6, D: 4'"
    ):
        letter_answer("3", counts, "r")
    assert letter_answer("A", ["B", "A"], "r", "letter") == "A" and letter_answer("A", ["B", "A"], "r", "text") == "B"
    with pytest.raises(RowError, match="can be A or B"):
        letter_answer("yes", ["Yes", "YES"], "r")
    assert letter_answer("YES", ["Yes", "YES"], "r") == "B"
    assert letter_answer("D", {"A": "x", "D": "y"}, "r") == letter_answer(1, {"A": "x", "D": "y"}, "r") == "D"
    with pytest.raises(ValueError, match="form 'number'"):
        letter_answer("A", counts, "r", "number")


@pytest.mark.parametrize("value", [4, -1, "7", "E", "(e)", "a cat", "", None, True, math.nan, ["A"], "A, B", 1.5])
def test_an_answer_that_is_no_option_names_both(value):
    with pytest.raises(
        RowError, match=r"row 'm.tsv:9': column 'gold' is .*none of the options \('A: a dog, B: no dog"
    ) as e:
        letter_answer(value, CHOICES, "m.tsv:9", column="gold")
    assert repr(value) in str(e.value)


# ---- ids and texts


def test_ids_are_unique():
    rows = MemoryRows([{"index": 1}, {"index": "2"}, {"index": 3}], "f.tsv")
    assert unique_ids(rows) == {"1": 0, "2": 1, "3": 2} and row_name(rows[1], rows, 1) == "f.tsv[1], index 2"
    assert row_name({}, rows, 1) == "f.tsv[1]"
    again = MemoryRows([{"index": 1}, {"index": 2}, {"index": "1"}], "f.tsv")
    with pytest.raises(RowError, match=r"row 'f.tsv\[2\]': column 'index' is 1, as in row 'f.tsv\[0\]'; remove one"):
        unique_ids(again)
    for none in ({}, {"index": None}, {"index": math.nan}):
        with pytest.raises(RowError, match=r"row 'f.tsv\[0\]': column 'index' is empty or missing"):
            unique_ids(MemoryRows([none], "f.tsv"))


def test_optional_texts():
    row = {"a": " hint\n", "b": None, "c": math.nan, "d": "nan", "e": 3, "f": ["x"]}
    assert [optional_text(row, name, "r") for name in "abcdeg"] == ["hint", "", "", "", "3", ""]
    with pytest.raises(RowError, match="row 'r': column 'f' is list, not text"):
        optional_text(row, "f", "r")


# ---- images


@pytest.mark.parametrize(
    ("cell", "want"),
    [
        (None, ()), (math.nan, ()), ("", ()), ([], ()),
        (RED, (RED,)), ({"bytes": RED, "path": "a.png"}, (RED,)), (RED64, (RED,)),
        (f"data:image/png;base64,{RED64}", (RED,)), (f"{RED64[:40]}\n{RED64[40:]}\n", (RED,)),
        ([{"bytes": RED, "path": None}, {"bytes": BLUE, "path": None}], (RED, BLUE)),
        ([RED64, f"data:image/jpeg;base64,{BLUE64}"], (RED, BLUE)),
        (repr([RED64, BLUE64]), (RED, BLUE)), (json.dumps([RED64]), (RED,)),
    ],
)  # fmt: skip
def test_images_in_every_form(cell, want):
    assert images(cell, "r") == want


def test_images_by_path(tmp_path):
    root = ImageRoot(str(tmp_path))
    for cell in ("images/1.jpg", {"bytes": None, "path": "images/1.jpg"}, ["images/1.jpg"], "['images/1.jpg']"):
        assert images(cell, "r", root) == (str(tmp_path / "images/1.jpg"),)
    with pytest.raises(RowError, match="row 'r': image ../1.jpg is outside"):
        images("../1.jpg", "r", root)
    with pytest.raises(RowError, match="is a URL"):
        images("https://a.b/c.png", "r", root)
    with pytest.raises(RowError, match="column 'image' is the path 'images/1.jpg', and no folder of images is known"):
        images("images/1.jpg", "r")


@pytest.mark.parametrize(
    ("cell", "words"),
    [
        (RED64[:-3], "column 'image' is .* not base64"),
        (f"data:image/png;base64,{RED64}!", "not base64"),
        ("images", "column 'image' is 'images', (which is not base64|base64 of something)"),
        (base64.b64encode(b"no image, but text").decode(), "base64 of something that is not an image"),
        (7, "column 'image' holds 7; an image is bytes, base64 or a path"),
        (b"", "column 'image' holds b''"),
        ({"bytes": None, "path": None}, "column 'image' holds None"),
        ([RED, None], r"column 'image\[1\]' holds None"),
        ([RED64, "x" * 999], r"column 'image\[1\]' is .*… \(1001 characters\)"),
    ],
)
def test_cells_that_are_no_images(cell, words):
    with pytest.raises(RowError, match=words) as caught:
        images(cell, "m.tsv:2")
    assert caught.value.row_id == "m.tsv:2" and len(str(caught.value)) < 300


def tsv(tmp_path, *lines, header="index\tquestion\timage"):
    (tmp_path / "m.tsv").write_text("".join(f"{line}\n" for line in (header, *lines)))
    rows = open_rows(tmp_path / "m.tsv")
    return rows, TsvImages(rows, unique_ids(rows), ImageRoot(str(tmp_path)))


def test_images_that_several_rows_share(tmp_path):
    """VLMEvalKit: a cell of at most 64 characters is the index of the row that has the image."""
    rows, held = tsv(tmp_path, "1000001\tq\t1", f"1\tq\t{RED64}", f"2\tq\t['{RED64}', '{BLUE64}']", "3\tq\t2", "4\tq\t")
    assert [held.of(rows[i], i) for i in range(5)] == [(RED,), (RED,), (RED, BLUE), (RED, BLUE), ()]


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (["1\tq\t9"], r"row 'm.tsv:2, index 1': column 'image' is '9', .*there is no such row"),
        ([f"1\tq\t{RED64}", "2\tq\t1", "3\tq\t2"], r"row 'm.tsv:4, index 3': .*row 'm.tsv:3' holds no image itself"),
        (["1\tq\t2", "2\tq\t"], "row 'm.tsv:3' holds no image itself"),
        (["1\tq\t1"], "row 'm.tsv:2' holds no image itself"),
        ([f"1\tq\t{RED64[:-1]}"], r"row 'm.tsv:2, index 1': column 'image' is .*not base64"),
    ],
)
def test_wrong_references(tmp_path, lines, words):
    rows, held = tsv(tmp_path, *lines)
    with pytest.raises(RowError, match=words):
        [held.of(rows[i], i) for i in range(len(rows))]


def test_rows_without_a_column_of_images(tmp_path):
    rows, held = tsv(tmp_path, "1\tq\timages/1.jpg", header="index\tquestion\timage_path")
    assert held.of(rows[0], 0) == (str(tmp_path / "images/1.jpg"),)
    with pytest.raises(UserError, match=r"m.tsv: no column 'image' and no 'image_path' \(columns: index, question\)"):
        tsv(tmp_path, "1\tq", header="index\tquestion")


# ---- real rows


def test_real_mmbench(samples):
    rows = open_rows(samples / "mmbench" / "MMBench_sample.tsv")
    ids = unique_ids(rows)
    held, files = TsvImages(rows, ids), samples / "mmbench" / "images"
    for position in range(len(rows)):
        row = rows[position]
        found = options(row, row_name(row, rows, position), missing=PANDAS)
        assert 2 <= len(found) <= 4 and (row["answer"] is None or letter_answer(row["answer"], found, "r") in found)
        assert held.of(row, position) == ((files / f"{row['index']}.jpg").read_bytes(),)
    assert options(rows[0], "r")["A"].startswith("for x in range(6):\n")


def test_real_ai2d_and_pope(samples):
    for row in open_rows(samples / "ai2d" / "ai2d_sample.parquet"):
        found = options(row, "r", "options")
        assert found[letter_answer(row["answer"], found, "r", "index")] == row["options"][int(row["answer"])]
        assert images(row["image"], "r")[0][:4] == b"\x89PNG"
    for row in open_rows(samples / "pope" / "pope_sample.parquet"):
        (image,) = images(row["image"], "r")
        assert image == (samples / "pope" / "images" / f"{row['image_source']}.jpg").read_bytes()


def test_real_mmmu_pro(samples):
    root, counts = ImageRoot(str(samples / "mmmu_pro")), []
    for row in open_rows(samples / "mmmu_pro" / "rows.jsonl"):
        found = options(row, "r", "options")
        assert letter_answer(row["answer"], found, "r", "letter") == row["answer"]
        assert options({"options": repr(row["options"])}, "r", "options") == found  # as in MMMU itself
        paths = [path for i in range(1, 8) for path in images(row.get(f"image_{i}"), "r", root)]
        assert paths and all(Image.open(path).size for path in paths)
        counts.append((len(found), len(paths)))
    assert max(counts)[0] == 10 and max(count for _, count in counts) == 5
