"""Rows of MMMU and of the mathematics benchmarks as questions, from both published forms and from real files."""

from __future__ import annotations

import json
import shutil

import pytest

from pivot_jax.errors import RowError, UserError
from pivot_jax.eval.benchmarks import suite
from pivot_jax.eval.benchmarks.families import geometry3k, mathverse, mathvision, mathvista, mm_math, mmmu
from tests.eval.benchmarks import published_rows


def both(name, family, tmp_path, file=""):
    hub = family.read(published_rows.write_tables(name, tmp_path))
    tsv = family.read(published_rows.write_tsv(name, tmp_path / "tsv", file))
    assert len(hub) == len(tsv) == len(published_rows.ROWS[name])
    return hub, tsv


def test_mmmu(tmp_path):
    hub, tsv = both("mmmu", mmmu, tmp_path, "MMMU_DEV_VAL.tsv")
    for at in range(len(hub)):
        same = ("question", "choices", "answers", "category", "fields", "images")
        assert {name: getattr(hub[at], name) for name in same} == {name: getattr(tsv[at], name) for name in same}
    assert hub[1].id == "validation_Art_Theory_2" and hub[1].category == "Art_Theory" and hub[1].answers == ("A",)
    assert hub[1].choices[:2] == ("Manet's", "Degas") and len(hub[2].images) == 5
    assert hub[3].answers == ("24/7", "3.429") and hub[3].fields == {"published_answer": "['24/7', '3.429']"}
    assert hub[4].answers == ("Smooth muscle",) and not hub[4].choices


def test_images_of_mmmu_in_each_toolkits_order(tmp_path):
    """The text names the second image first."""
    item = mmmu.read(published_rows.write_tables("mmmu", tmp_path))[5]
    first, second = item.images
    variants = mmmu.BENCHMARKS["mmmu"].variants
    assert variants["ours"].example(item).images == variants["vlmevalkit"].example(item).images == (second, first)
    assert variants["lmms-eval"].example(item).images == (first, second)
    assert variants["cambrian"].example(item).images == (first,)
    assert variants["ours"].example(item).messages[0].content.startswith("In <image>, see <image>?\nA. True")


def test_wrong_rows_of_mmmu(tmp_path):
    row = published_rows.TSV["mmmu"][0]
    for changes, says in (
        ({"question": "See <image 3>."}, "the text names <image 3>, and the row has 1; add the image or correct it"),
        ({"answer": "Z"}, "column 'answer' is 'Z', which is none of the options"),
        (dict.fromkeys("ABCD", ""), "a question of type 'multiple-choice' without options; add them"),
    ):
        with pytest.raises(UserError, match=f"MMMU: .*{says}"):
            mmmu.read(published_rows.write_tsv("", tmp_path, "a.tsv", [row | changes]))


def test_rows_of_the_split_dev_are_left_out(tmp_path):
    rows = [row | {"split": "dev"} if row["index"] == "0" else row for row in published_rows.TSV["mmmu"]]
    found = mmmu.read(published_rows.write_tsv("", tmp_path, "MMMU_DEV_VAL.tsv", rows))
    assert [found[at].id for at in range(len(found))] == ["1", "2", "3", "4", "5"]


def test_real_rows_of_mmmu_pro(shared_data, tmp_path):
    """The sample has no ids; one question has five images, and images as options."""
    folder = shared_data / "benchmark_samples" / "mmmu_pro"
    shutil.copytree(folder / "images", tmp_path / "images")
    rows = [json.loads(line) for line in (folder / "rows.jsonl").open()]
    text = "".join(json.dumps(row | {"id": f"test_Art_{at}"}) + "\n" for at, row in enumerate(rows))
    (tmp_path / "rows.jsonl").write_text(text)
    items = mmmu.read(tmp_path / "rows.jsonl")
    assert len(items) == 11 and {len(items[at].choices) for at in range(11)} <= set(range(2, 11))
    counts = [len(items[at].images) for at in range(11)]
    assert max(counts) == 5
    for toolkit, variant in mmmu.BENCHMARKS["mmmu"].variants.items():
        for at in range(11):
            example = variant.example(items[at])
            assert example.messages[0].content.count("<image>") == len(example.images), toolkit


def test_mathvista(tmp_path):
    hub, tsv = both("mathvista", mathvista, tmp_path, "MathVista_MINI.tsv")
    for at in range(len(hub)):
        same = ("question", "choices", "answers", "category", "text", "images")
        assert {name: getattr(hub[at], name) for name in same} == {name: getattr(tsv[at], name) for name in same}
    assert hub[0].fields == {
        "question_type": "free_form", "answer_type": "float", "unit": "m/s", "precision": 1.0,
        "skills": ["scientific reasoning"],
    }  # fmt: skip
    assert tsv[0].fields["precision"] == 1.0 and hub[2].answers == ("D",) and hub[2].id == "3"


def test_wrong_rows_of_mathvista(tmp_path):
    row = published_rows.TSV["mathvista"][0]
    for changes, says in (
        ({"question_type": "open"}, "column 'question_type' is 'open', not one of multi_choice, free_form; correct it"),
        ({"question_type": "multi_choice"}, "a question of type 'multi_choice' with 0 options; correct one of the two"),
        ({"precision": "two"}, "column 'precision' is 'two', not a number of decimals; correct it"),
    ):
        with pytest.raises(UserError, match=says):
            mathvista.read(published_rows.write_tsv("", tmp_path, "a.tsv", [row | changes]))


def test_mathverse(tmp_path):
    hub, tsv = both("mathverse", mathverse, tmp_path, "MathVerse_MINI.tsv")
    for at in range(len(hub)):
        assert (hub[at].question, hub[at].text, hub[at].answers) == (tsv[at].question, tsv[at].text, tsv[at].answers)
    assert [hub[at].category for at in range(2)] == ["Text Dominant", "Vision Only"]
    assert hub[0].unit == hub[1].unit == "1" and hub[2].fields == {"question_type": "free-form"}


def test_real_rows_of_mathverse(shared_data):
    """The website's schema: options carry their letters, "Text Only" has no image, an answer may be two letters."""
    items = mathverse.read(shared_data / "benchmark_samples" / "mathverse" / "rows.jsonl")
    found = [items[at] for at in range(len(items))]
    assert len(found) == 22 and sum(not item.images for item in found) == 4
    assert {len(item.images) for item in found} == {0, 1} and {"C\nD", "E"} <= {item.answers[0] for item in found}
    choice = next(item for item in found if item.fields["question_type"] == "multi-choice")
    assert "\nA:$\\tan" in choice.text and choice.text.startswith("Please directly answer the question and provide the")


def test_mathvision_of_both_forms(tmp_path):
    hub = mathvision.read(published_rows.write_tables("mathvision", tmp_path) / "data/testmini-00000-of-00001.parquet")
    tsv = mathvision.read(published_rows.write_tsv("mathvision", tmp_path / "tsv", "MathVision.tsv"))
    assert len(hub) == len(tsv) == 3
    for at in range(3):
        same = ("question", "choices", "answers", "category", "images")
        assert {name: getattr(hub[at], name) for name in same} == {name: getattr(tsv[at], name) for name in same}
    assert hub[0].id == "4" and hub[2].choices == ()
    row = published_rows.TSV["mathvision"][0] | {"answer": "F"}
    with pytest.raises(UserError, match="column 'answer' is 'F', no letter of its 5 options"):
        mathvision.read(published_rows.write_tsv("", tmp_path, "a.tsv", [row]))


def test_real_mathvision_in_each_toolkits_words(shared_data):
    items = mathvision.read(shared_data / "mathvision")
    assert len(items) == 1269
    prompt = mathvision.BENCHMARKS["mathvision"].variants["lmms-eval"].example(items[2]).messages[0].content
    assert prompt.startswith("<image>\nPlease solve") and "\nChoices: A. A\nB. B" in prompt


def test_geometry3k(tmp_path, shared_data):
    items = geometry3k.read(published_rows.write_tables("geometry3k", tmp_path))
    example = suite.find("geometry3k").variants["ours"].example(items[0])
    assert example.messages[0].content.startswith("<image>Chords") and len(example.images) == 1
    assert example.messages[0].content.endswith("The final answer MUST BE put in \\boxed{}.")
    assert items[1].answers == ("\\frac{1}{2}",)
    choices = geometry3k.read_choices(published_rows.write_tables("geometry3k_choices", tmp_path))
    assert choices[0].answers == ("C",) and choices[0].choices == ("2", "4", "8", "16") and choices[0].id == "2401"
    real = geometry3k.read_choices(shared_data / "geometry3k_mini" / "data.json")
    assert len(real) == 57 and all(len(real[at].choices) == 4 and len(real[at].images) == 1 for at in range(57))


def test_mm_math(tmp_path):
    folder = published_rows.write_tables("mm_math", tmp_path)
    with pytest.raises(UserError, match="MM-Math: .*image 52942892.png is not below .*; unpack Image.zip there"):
        mm_math.read(folder)
    (folder / "Image").mkdir()
    for name in ("52942892.png", "52942893.png"):
        (folder / "Image" / name).write_bytes(b"png")
    mm_math._files.cache_clear()
    hub = mm_math.read(folder)
    tsv = mm_math.read(published_rows.write_tsv("mm_math", tmp_path / "tsv", "MM-Math.tsv"))
    assert (
        [hub[at].answers for at in range(2)]
        == [tsv[at].answers for at in range(2)]
        == [("2\\sqrt{3}",), ("35^\\circ",)]
    )
    assert hub[0].category == tsv[0].category == "medium" and hub[0].images[0].endswith("Image/52942892.png")
    with pytest.raises(RowError):
        mm_math._hub(hub_row(hub, {"solution": "No box."}), folder)


def hub_row(items, changes):
    """The first row of the file with other cells."""
    from pivot_jax.eval.benchmarks.row import Row

    return Row(items.rows[0] | changes, "0", "row 0", lambda column: ())
