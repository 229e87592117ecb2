"""Questions from published files: both forms give the same, and wrong files are named."""

from __future__ import annotations

from pathlib import Path

import pytest

from pivot_jax.data.sources import tables
from pivot_jax.errors import UserError
from pivot_jax.eval.benchmarks.base import Item
from pivot_jax.eval.benchmarks.chained import column
from pivot_jax.eval.benchmarks.published import published, tsv_item
from pivot_jax.eval.benchmarks.row import Row
from tests.eval.benchmarks import published_rows


def _choice(row: Row) -> Item:
    choices = row.options("choices")
    return Item(row.id, row.text("question"), row.images("image_1"), choices, (row.letter(choices, "letter"),))


def test_both_forms_of_a_benchmark_give_its_questions(tmp_path: Path) -> None:
    folder = published_rows.write_tables("blink", tmp_path)
    tasks = ("Counting", "Jigsaw", "Visual_Similarity")
    ours = published(folder, "BLINK", hf=_choice, split="val", config=tasks, id_key="idx")
    file = published_rows.write_tsv("blink", tmp_path / "tsv")
    theirs = published(file, "BLINK", hf=_choice)
    assert [ours[i].id for i in range(len(ours))][:2] == ["val_Counting_1", "val_Counting_2"]
    by_question = {item.question + str(item.choices): item for item in map(theirs.__getitem__, range(len(theirs)))}
    assert len(by_question) == len(ours) == 4
    for item in map(ours.__getitem__, range(len(ours))):
        other = by_question[item.question + str(item.choices)]
        assert (item.choices, item.answers) == (other.choices, other.answers)
        assert other.images[0] == item.images[0]  # the same bytes


def test_a_tsv_is_found_in_a_folder_and_its_images_by_reference(tmp_path: Path) -> None:
    published_rows.write_tsv("mmbench", tmp_path, "MMBench_DEV_EN.tsv")
    published_rows.write_tsv("ai2d", tmp_path, "AI2D_TEST.tsv")
    with pytest.raises(UserError, match=r"holds several files of questions \(it holds: AI2D_TEST.tsv, MMB.*; name one"):
        published(tmp_path, "MMBench")
    items = published(tmp_path, "MMBench", tsv_file="MMBench_DEV_EN")
    first, rotated = items[0], items[1]
    assert (first.id, rotated.id, rotated.images) == ("241", "1000241", first.images)
    assert items[2].hint == "The sign was made in 1904.\nIt is made of tin." and first.hint == ""
    assert first.fields == {"l2_category": "relation_reasoning"}
    assert (items[6].choices, items[6].answers) == (("1", "2.5", "three"), ("B",))


def test_an_option_that_is_left_out_keeps_the_letters_of_the_others(tmp_path: Path) -> None:
    rows = [{**published_rows.TSV["ai2d"][0], "B": "", "answer": "C"}]
    item = published(published_rows.write_tsv("", tmp_path, "a.tsv", rows), "AI2D")[0]
    assert (item.choices, item.answers) == (("c", "", "b", "a"), ("C",))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"index": "0"}, r"AI2D: row 'a.tsv:3': column 'index' is 0, as in row 'a.tsv:2'; remove"),
        ({"answer": "E"}, r"row 'a.tsv:3, index 1': column 'answer' is 'E', which is none of the options"),
        ({"question": ""}, r"row 'a.tsv:3, index 1': column 'question' is empty; fill it in"),
        ({"image": "77"}, r"row 'a.tsv:3, index 1': column 'image' is '77'.* there is no such row"),
    ],
)
def test_a_wrong_row_is_named(change: dict[str, str], message: str, tmp_path: Path) -> None:
    first, second = published_rows.TSV["ai2d"][:2]
    file = published_rows.write_tsv("", tmp_path, "a.tsv", [first, second | change])
    with pytest.raises(UserError, match=message):
        published(file, "AI2D")[1]


def test_the_file_of_another_benchmark_is_refused_at_once(tmp_path: Path) -> None:
    folder = published_rows.write_tables("ai2d", tmp_path)
    with pytest.raises(UserError, match=r"^BLINK: row 'ai2d/test\[0\]': column 'prompt' is missing; name"):
        published(folder, "BLINK", hf=lambda row: Item(row.id, row.text("prompt")), split="test")
    with pytest.raises(UserError, match=r"no split 'val' \(there are: test\)"):
        published(folder, "BLINK", hf=_choice, split="val")
    with pytest.raises(UserError, match="AI2D: .*does not exist"):
        published(tmp_path / "nothing", "AI2D", hf=_choice)
    with pytest.raises(UserError, match="in which it is not published"):
        published(published_rows.write_tsv("ai2d", tmp_path), "AI2D", hf=_choice, tsv=None)


def test_rows_can_be_chosen_and_ids_repeated(tmp_path: Path) -> None:
    folder = published_rows.write_tables("seed", tmp_path)

    def item(row: Row) -> Item:
        return Item(row.id, row.text("question"), row.images())

    videos = published(folder, "SEED", hf=item, split="test", id_key="question_id", where=("data_type", "video"))
    assert [videos[i].id for i in range(len(videos))] == ["v1"] and len(videos[0].images) == 3
    with pytest.raises(UserError, match="no question with data_type audio"):
        published(folder, "SEED", hf=item, split="test", id_key="question_id", where=("data_type", "audio"))
    doubled = published(folder, "SEED", hf=item, split="test", id_key="data_type", repeated=True)
    assert [doubled[i].id for i in range(3)] == ["image", "image#2", "video"]
    with pytest.raises(
        UserError, match=r"SEED: row 'seed/test\[1\]': column 'data_type' is .*, as in row 'seed/test\[0\]'"
    ):
        published(folder, "SEED", hf=item, split="test", id_key="data_type")


def test_a_column_of_large_files_is_read_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "WHOLE", 0)
    file = published_rows.write_tables("ai2d", tmp_path) / "data" / "test-00000-of-00001.parquet"
    rows = tables.from_parquet([file], "large")
    assert isinstance(rows, tables.RowGroups)
    assert column(rows, "answer") == ["1", "3", "0"] and column(rows, "other") == [None] * 3


def test_answers_of_open_questions_are_texts_or_lists(tmp_path: Path) -> None:
    items = published(published_rows.write_tsv("docvqa", tmp_path), "DocVQA", tsv=tsv_item)
    assert items[0].answers == ("0.28",) and items[0].choices == ()
