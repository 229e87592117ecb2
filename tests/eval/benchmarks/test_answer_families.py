"""Bad rows of the families with short and yes/no answers: each message names file, row, column and fix."""

from __future__ import annotations

from pathlib import Path

import datasets
import pytest

from pivot_jax.errors import UserError
from pivot_jax.eval.benchmarks import suite
from pivot_jax.eval.run import RunOptions, run_benchmark
from pivot_jax.eval.score import score_file
from tests.eval.benchmarks import published_rows
from tests.tiny import scripted

NAMES = ("mme", "pope", "hallusionbench", "naturalbench", "textvqa", "docvqa", "chartqa", "ocrbench", "gqa")


@pytest.mark.parametrize("name", NAMES)
def test_an_image_that_is_missing_is_named(name: str, tmp_path: Path) -> None:
    first = published_rows.TSV[name][0]
    with pytest.raises(UserError, match=r"row '.*a.tsv:2.*column 'image' is empty; each question has an image"):
        suite.BENCHMARKS[name].read(published_rows.write_tsv("", tmp_path, "a.tsv", [first | {"image": ""}]))
    rows = [{column: cell for column, cell in first.items() if column not in ("image", "image_path")}]
    with pytest.raises(UserError, match="no column 'image'"):
        suite.BENCHMARKS[name].read(published_rows.write_tsv("", tmp_path, "b.tsv", rows))


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"gqa", "hallusionbench"}))  # theirs are elsewhere
def test_a_column_of_images_that_is_missing_is_named(name: str, tmp_path: Path) -> None:
    table = published_rows.TABLES[name][0]
    column = "Image" if name == "naturalbench" else "image"
    rows = datasets.Dataset.from_list(table.rows, features=table.features).remove_columns(column)
    (tmp_path / table.path).parent.mkdir(parents=True, exist_ok=True)
    rows.to_parquet(tmp_path / table.path)
    with pytest.raises(UserError, match=rf"no column '{column}'; name the file with the images \(here: "):
        suite.BENCHMARKS[name].read(tmp_path)


@pytest.mark.parametrize("name", NAMES)
def test_an_index_that_is_there_twice_is_named(name: str, tmp_path: Path) -> None:
    first = published_rows.TSV[name][0]
    with pytest.raises(UserError, match=r"row '.*a.tsv:3.*column 'index' is .*, as in row '.*a.tsv:2'; remove one"):
        suite.BENCHMARKS[name].read(published_rows.write_tsv("", tmp_path, "a.tsv", [first, first]))


@pytest.mark.parametrize("name", NAMES)
def test_base64_may_have_a_header(name: str, tmp_path: Path) -> None:
    first = published_rows.TSV[name][0]
    plain = suite.BENCHMARKS[name].read(published_rows.write_tsv("", tmp_path, "a.tsv", [first]))[0]
    image = f"data:image/png;base64,{first['image']}"
    found = suite.BENCHMARKS[name].read(published_rows.write_tsv("", tmp_path, "b.tsv", [first | {"image": image}]))[0]
    assert found == plain and plain.images[0].startswith(b"\x89PNG")


@pytest.mark.parametrize("name", NAMES)
def test_a_file_that_ends_within_a_row_is_named(name: str, tmp_path: Path) -> None:
    file = published_rows.write_tsv(name, tmp_path)
    text = file.read_text(encoding="utf-8")
    file.write_text(text[: text.rindex("\t") - 3], encoding="utf-8")
    with pytest.raises(UserError, match=rf"{name}.tsv"):
        items = suite.BENCHMARKS[name].read(file)
        [items[at] for at in range(len(items))]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("form", ["hub", "tsv"])
def test_right_answers_are_right_from_the_file_to_the_score(name: str, form: str, tmp_path: Path) -> None:
    """Asked, answered and scored by every toolkit's rules; what is written down is enough to score it again."""
    write = published_rows.write_tables if form == "hub" else published_rows.write_tsv
    path = write(name, tmp_path)
    for toolkit in suite.BENCHMARKS[name].variants:
        if name == "textvqa" and form == "tsv" and toolkit in ("cambrian", "llava"):
            continue  # their prompts have OCR words, which this file lacks
        answerer = scripted.Scripted(lambda example: _first(example.extra["answer"]))
        options = RunOptions(toolkit=toolkit)
        file = run_benchmark(name, path, answerer, tmp_path / f"{toolkit}.jsonl", options)
        score = score_file(file)
        assert len(answerer.asked) == len(score.ids) == len(suite.BENCHMARKS[name].read(path))
        assert (score.toolkit, score.unread) == (toolkit, 0)
        if name == "textvqa":
            assert score.value.value == pytest.approx(1, abs=0.02)  # the first of ten answers
        else:
            assert float(score.scores.mean()) == 1


@pytest.mark.parametrize(("name", "ids"), [("mme", ["0", "2"]), ("naturalbench", ["0", "1", "2", "3"])])
def test_a_limit_takes_all_questions_of_an_image_or_a_group(name: str, ids: list[str], tmp_path: Path) -> None:
    answerer = scripted.Scripted(lambda example: "Yes")
    path = published_rows.write_tsv(name, tmp_path)
    run_benchmark(name, path, answerer, tmp_path / "answers.jsonl", RunOptions(limit=1))
    assert answerer.asked == ids


def _first(answer: str | list[str]) -> str:
    text = answer if isinstance(answer, str) else answer[0]
    return text.lower() if text in ("Yes", "No") else text


@pytest.mark.parametrize("name", ["textvqa", "docvqa", "ocrbench"])
def test_an_answer_that_is_no_text_is_named(name: str, tmp_path: Path) -> None:
    column = "answer" if name == "ocrbench" else "answers"
    row = {key: cell for key, cell in published_rows.ROWS[name][0].items() if key != "image"} | {column: [["a"]]}
    row |= {"image": "0.png"}
    rows = datasets.Dataset.from_list([row])
    rows.to_parquet(tmp_path / "data.parquet")
    with pytest.raises(UserError, match=rf"column '{column}' holds \['a'\]; write a list of texts"):
        suite.BENCHMARKS[name].read(tmp_path / "data.parquet")
