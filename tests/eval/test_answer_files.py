"""Prediction files of other toolkits, in their own schemas, as our rows."""

from __future__ import annotations

import csv
import gzip
import json
import math
import sys
from collections import Counter

import pytest

from pivot_jax.errors import UserError
from pivot_jax.eval import answer_files


def jsonl(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def table(path, header, *rows, quoting=csv.QUOTE_ALL):
    """As VLMEvalKit's ``dump`` writes a TSV: every cell quoted."""
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, delimiter="\t", quoting=quoting, lineterminator="\n").writerows([header, *rows])
    return path


def sheet(path, header, *rows):
    openpyxl = pytest.importorskip("openpyxl", reason="openpyxl is not installed")
    book = openpyxl.Workbook()
    for cells in (header, *rows):
        book.active.append(cells)
    book.save(path)
    return path


MMBENCH = ["index", "question", "hint", "A", "B", "C", "D", "answer", "category", "l2-category", "split", "prediction"]
ROTATED = [
    [241, "Which?", "", "x", "y", "", "", "A", "action", "fine", "dev", "A\nbecause"],
    [1000241, "Which?", "", "y", "x", "", "", "B", "action", "fine", "dev", ""],
]
WANTED = {
    "question_id": "241", "prompt": "Which?", "answer": "A\nbecause", "gt_answer": "A", "category": "action",
    "l2-category": "fine", "split": "dev", "choices": ["x", "y"], "unit": 241,
}  # fmt: skip


# ---- VLMEvalKit


def check_mmbench(path):
    toolkit, (first, second) = answer_files.read(path)
    assert toolkit == "vlmevalkit" and {key: first[key] for key in WANTED} == WANTED
    assert not {"index", "question", "prediction", *"ABCD"} & set(first)
    assert (second["question_id"], second["answer"], second["unit"]) == ("1000241", "", 241)
    assert second["hint"] is None


def test_vlmevalkit(tmp_path):
    check_mmbench(table(tmp_path / "m_MMBench_DEV_EN.tsv", MMBENCH, *ROTATED))
    rows = [dict(zip(MMBENCH, [cell if cell != "" else None for cell in row], strict=True)) for row in ROTATED]
    (tmp_path / "m.json").write_text(json.dumps(rows, indent=4).replace("null", "NaN"))  # PRED_FORMAT=json
    check_mmbench(tmp_path / "m.json")


def test_vlmevalkit_excel(tmp_path):
    rows = [[cell if cell != "" else None for cell in row] for row in ROTATED]
    check_mmbench(sheet(tmp_path / "m_MMBench_DEV_EN.xlsx", MMBENCH, *rows, [None] * len(MMBENCH)))
    numbers = sheet(tmp_path / "n.xlsx", ["index", "question", "answer", "prediction"], [1, "1 + 1?", 2, 2])
    (row,) = answer_files.read(numbers)[1]
    assert (row["answer"], row["gt_answer"]) == ("2", "2") and "unit" not in row


def test_vlmevalkit_golds_and_groups(tmp_path):
    file = table(
        tmp_path / "c.tsv", ["index", "question", "answer", "prediction", "g_index"],
        ["a_1", "q", "['14', 'It\\'s 14']", "14", "a"], ["a_2", "q", "[1, 2]", "[1, 2]", "a"],
        ["a_3", "q", "", "x", "a"],
    )  # fmt: skip
    rows = answer_files.read(file)[1]
    assert [row.get("gt_answer") for row in rows] == [["14", "It's 14"], "[1, 2]", None]
    assert [row["unit"] for row in rows] == ["a"] * 3 and rows[0]["choices"] == []


def test_an_option_that_is_left_out_keeps_the_letters_after_it(tmp_path):
    file = table(tmp_path / "c.tsv", ["index", "A", "B", "C", "answer", "prediction"], [1, "x", "", "z", "C", "C"])
    assert answer_files.read(file)[1][0]["choices"] == ["x", "", "z"]


def test_without_openpyxl(tmp_path, monkeypatch):
    (tmp_path / "a.xlsx").write_bytes(b"PK\x03\x04")
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    with pytest.raises(UserError, match="a.xlsx: reading it needs 'openpyxl'; install it"):
        answer_files.read(tmp_path / "a.xlsx")


def test_excel_files_that_are_not_whole(tmp_path):
    content = sheet(tmp_path / "a.xlsx", ["index", "prediction"], [1, "A"]).read_bytes()
    for cut in (len(content) // 2, 4):
        (tmp_path / "cut.xlsx").write_bytes(content[:cut])
        with pytest.raises(UserError, match="cut.xlsx: not a whole Excel file"):
            answer_files.read(tmp_path / "cut.xlsx")
    for header in (["index", None, "prediction"], ["index", "index", "prediction"]):
        with pytest.raises(UserError, match="b.xlsx:1: a column without a name, or two with the same"):
            answer_files.read(sheet(tmp_path / "b.xlsx", header, [1, 2, 3]))
    with pytest.raises(UserError, match="c.xlsx:3: column 'index' is None, not text"):
        answer_files.read(sheet(tmp_path / "c.xlsx", ["index", "prediction"], [1, "A"], [None, "B"]))


# ---- lmms-eval


SAMPLE = {
    "doc_id": 0, "doc": {"question": "Which?", "options": ["x", "y"], "answer": "0", "category": "food"},
    "target": "A", "resps": ["The answer is A."], "filtered_resps": "A", "doc_hash": "0" * 64, "input": "Which?\nA. x",
    "exact_match": 1.0,
}  # fmt: skip


def test_lmms_eval(tmp_path):
    plain = {key: value for key, value in SAMPLE.items() if key != "resps"}  # the filter changed nothing
    other = plain | {"doc_id": 1, "filtered_resps": "['x']", "target": "['a', 'b']", "doc": {"A": "x", "B": "nan"}}
    nested = plain | {"doc_id": 2, "resps": [["B"]], "filtered_resps": ["B"], "target": "[1, 2]", "doc": None}
    toolkit, rows = answer_files.read(jsonl(tmp_path / "20260806_samples_ai2d.jsonl", SAMPLE, other, nested))
    assert toolkit == "lmms-eval" and [row["question_id"] for row in rows] == ["0", "1", "2"]
    assert [row["answer"] for row in rows] == ["The answer is A.", "['x']", "B"]
    assert [row["gt_answer"] for row in rows] == ["A", ["a", "b"], "[1, 2]"]
    assert [row["choices"] for row in rows] == [["x", "y"], ["x"], []] and rows[0]["category"] == "food"
    assert rows[0]["prompt"] == "Which?\nA. x" and rows[0]["doc"]["answer"] == "0" and rows[0]["exact_match"] == 1.0


def test_lmms_eval_with_several_filters(tmp_path):
    strict = SAMPLE | {"filtered_resps": "[invalid]", "exact_match": 0.0}
    rows = answer_files.read(jsonl(tmp_path / "a.jsonl", SAMPLE, strict))[1]
    assert len(rows) == 1 and rows[0]["filtered_resps"] == "A"
    with pytest.raises(UserError, match="a.jsonl: doc_id 0 has two different answers"):
        answer_files.read(jsonl(tmp_path / "a.jsonl", SAMPLE, SAMPLE | {"resps": ["B"]}))


@pytest.mark.parametrize("answers", [[["-1.2", "True"], ["-3.4", "False"]], ["A", "B"], [], None])
def test_lmms_eval_without_one_text(tmp_path, answers):
    row = {key: value for key, value in SAMPLE.items() if key != "resps"} | {"filtered_resps": answers}
    with pytest.raises(UserError, match="a.jsonl:1: column 'filtered_resps' is .*, not one text"):
        answer_files.read(jsonl(tmp_path / "a.jsonl", row))


# ---- LLaVA, Cambrian, ours


def test_llava(tmp_path):
    row = {"question_id": 3, "prompt": "Why?", "text": "No", "answer_id": "x", "model_id": "llava", "metadata": {}}
    toolkit, (found,) = answer_files.read(jsonl(tmp_path / "a.jsonl", row))
    assert toolkit == "llava" and "gt_answer" not in found and "text" not in found
    assert (found["question_id"], found["answer"], found["prompt"], found["model_id"]) == ("3", "No", "Why?", "llava")
    seed = jsonl(tmp_path / "b.jsonl", {"question_id": "101669", "prediction": "A", "gt_answer": "C"})
    assert answer_files.read(seed) == (
        "llava", [{"question_id": "101669", "answer": "A", "gt_answer": "C", "category": "", "choices": []}],
    )  # fmt: skip


def test_cambrian(tmp_path):
    row = {"question_id": 5, "prompt": "Q?", "answer": "A", "gt_answer": "B", "category": "math", "type": "open",
           "model_id": "cambrian-8b"}  # fmt: skip
    assert answer_files.read(jsonl(tmp_path / "a.jsonl", row)) == (
        "cambrian", [row | {"question_id": "5", "choices": []}],
    )  # fmt: skip
    bench = {"questionId": 0, "image": "a.png", "prompt": "Q?", "answer": "(A)", "gt_answer": "(B)",
             "category": "Count", "options": ["1", "2"], "model_id": "m"}  # fmt: skip
    found = answer_files.read(jsonl(tmp_path / "b.jsonl", bench))[1][0]
    assert (found["question_id"], found["choices"], found["category"]) == ("0", ["1", "2"], "Count")
    texts = jsonl(tmp_path / "c.jsonl", row | {"gt_answer": ["a", "['b']"]}, row | {"gt_answer": "['b', 'c']"})
    assert [one["gt_answer"] for one in answer_files.read(texts)[1]] == [["a", "['b']"], "['b', 'c']"]
    mmbench = {"index": 1000241, "question": "Q?", "prediction": "B", "gt_answer": "A", "A": "x", "B": "y", "C": None,
               "D": "nan", "source_id": "s", "model_id": "m", "category": "c"}  # fmt: skip
    toolkit, (found,) = answer_files.read(jsonl(tmp_path / "d.jsonl", mmbench))
    assert (toolkit, found["gt_answer"], found["choices"], found["unit"]) == ("cambrian", "A", ["x", "y"], 241)


def test_ours(tmp_path):
    row = {"question_id": "1", "prompt": "Q?", "answer": "", "gt_answer": "['a', 'b']", "category": "",
           "choices": ["x"], "benchmark": "mmvp", "model_id": "m", "settings": {"max_new_tokens": 8},
           "unit": 3}  # fmt: skip
    assert answer_files.read(jsonl(tmp_path / "a.jsonl", row)) == ("ours", [row])


# ---- malformed files


GOOD = {"question_id": 1, "prompt": "Q?", "text": "No"}


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([GOOD, {"question_id": 2, "prompt": "Q?"}], "a.jsonl:2: column 'text' is missing .of llava's question_id, "),
        ([GOOD, GOOD | {"text": None}], "a.jsonl:2: column 'text' is None, not text"),
        ([GOOD | {"text": math.nan}], "a.jsonl:1: column 'text' is nan, not text"),
        ([GOOD | {"text": ["No"]}], r"a.jsonl:1: column 'text' is \['No'\], not text"),
        ([GOOD | {"question_id": True}], "a.jsonl:1: column 'question_id' is True"),
        ([], "a.jsonl: it holds no answers"),
        ([{"question_id": 1, "image": "a.png", "text": "Why?", "category": "x"}],
         r"a.jsonl: not a file of answers .*\(question_id, image, text, category\); .*llava: question_id"),
    ],
)  # fmt: skip
def test_malformed_rows_name_file_row_and_column(tmp_path, rows, words):
    with pytest.raises(UserError, match=words) as caught:
        answer_files.read(jsonl(tmp_path / "a.jsonl", *rows))
    assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)


def test_files_that_cannot_be_read(tmp_path):
    jsonl(tmp_path / "a.jsonl", GOOD)
    with pytest.raises(UserError, match=r"b.jsonl: no such file of answers; did you mean '.*a.jsonl'"):
        answer_files.read(tmp_path / "b.jsonl")
    (tmp_path / "a.jsonl").write_text(json.dumps(GOOD) + '\n{"question_id": ')
    with pytest.raises(UserError, match="a.jsonl:2': malformed JSON line"):
        answer_files.read(tmp_path / "a.jsonl")
    table(tmp_path / "a.tsv", MMBENCH, *ROTATED)
    (tmp_path / "a.tsv").write_text((tmp_path / "a.tsv").read_text()[:-30])
    with pytest.raises(UserError, match="a.tsv:4: .*truncated"):
        answer_files.read(tmp_path / "a.tsv")
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(json.dumps(GOOD).encode())[:-9])
    with pytest.raises(UserError, match="a.jsonl.gz: not a whole .gz file"):
        answer_files.read(tmp_path / "a.jsonl.gz")


# ---- real files


def real(shared_data, *names):
    path = shared_data.joinpath(*names)
    if not path.is_file():
        pytest.skip(f"no file of answers at {path}")
    return path


@pytest.mark.parametrize(
    ("names", "count"),
    [
        (("eval_outputs", "llava15_13b", "MME_answers.jsonl.gz"), 2374),
        (("eval_outputs", "llava15_13b", "POPE_answers.jsonl.gz"), 8910),
        (("eval_outputs", "llava15_13b", "TextVQA_answers.jsonl.gz"), 5000),
        (("eval_outputs_more", "gqa", "llava-v1.5-13b.jsonl.gz"), 12578),
        (("eval_outputs_more", "seed_bench", "llava-v1.5-13b.jsonl.gz"), 19242),
    ],
)
def test_real_llava(shared_data, names, count):
    toolkit, rows = answer_files.read(real(shared_data, *names))
    assert toolkit == "llava" and len(rows) == count and all(row["answer"] for row in rows)


def test_real_mmbench_in_excel(shared_data):
    """Accuracy over rows, plain and circular as eval_outputs_more/expected.json has them: 76.45, 75.43, 67.69."""
    pytest.importorskip("openpyxl", reason="openpyxl is not installed")
    toolkit, rows = answer_files.read(
        real(shared_data, "eval_outputs_more", "mmbench_dev_20230712", "llava-v1.5-13b.xlsx")
    )
    right = [row["answer"][:1] == row["gt_answer"] for row in rows]
    groups = Counter(row["unit"] for row in rows)
    wrong = {row["unit"] for row, correct in zip(rows, right, strict=True) if not correct}
    plain = [correct for row, correct in zip(rows, right, strict=True) if int(row["question_id"]) < 10**6]
    assert toolkit == "vlmevalkit" and (len(rows), len(groups), len(plain)) == (4377, 1176, 1176)
    assert round(100 * sum(right) / len(right), 2) == 76.45
    assert round(100 * sum(plain) / len(plain), 2) == 75.43
    assert round(100 * (1 - len(wrong) / len(groups)), 2) == 67.69
