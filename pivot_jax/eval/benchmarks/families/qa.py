"""Your own questions, from any file that the project reads; what a row means follows from the fields of the first one.

| fields of a row | form |
|---|---|
| ``conversations`` | LLaVA; the last human turn is asked, the turns before it are context |
| ``messages``, or ``prompt`` (and ``completion``) | TRL; likewise |
| ``question`` (``query``, ``problem``), ``answer`` (``answers``, ``gt_answer``, ``label``) | columns, as VLMEvalKit's |

In columns, options are a list in ``choices`` or ``options``, or texts in ``A``, ``B``, …; they follow the question, and
the answer is a letter, an index from 0 or an option's text. Other questions are asked as they are, without a request
for a short answer: write one into the question.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pivot_jax.data.example import Example
from pivot_jax.data.sources.base import IMAGE, ImageRoot
from pivot_jax.data.sources.delimited import DelimitedRows
from pivot_jax.data.sources.llava import conversation_example
from pivot_jax.data.sources.rows import Rows, open_rows
from pivot_jax.data.sources.trl import trl_example
from pivot_jax.errors import RowError, UserError
from pivot_jax.eval.benchmarks import cells, image_cells
from pivot_jax.eval.benchmarks.base import Benchmark, Item, Items, Variant
from pivot_jax.eval.benchmarks.cells import is_missing, literal_list, row_name, shown
from pivot_jax.eval.benchmarks.examples import item_of
from pivot_jax.eval.benchmarks.image_cells import TsvImages
from pivot_jax.eval.benchmarks.prompts import LETTER, asked, lettered
from pivot_jax.eval.scoring.aggregate import CLUSTERED_MEAN

QUESTION = ("question", "query", "problem")
ANSWER = ("answer", "answers", "gt_answer", "label")
IMAGES = ("image", "images", "image_path")
OPTIONS = ("choices", "options")
IDS = ("id", "index", "question_id")
CATEGORY = "category"  # the column of categories where none is named
WRITTEN = "written_options"  # field of a question that has its options in its own text

Convert = Callable[[dict[str, Any], str, int], Item]  # of row, its name in messages, and its position


def read(path: str | Path, *, category: str = "", unit: str = "") -> Items:
    """Questions of a file, a folder or a data set of the hub.

    Args:
      category: column of categories; "": the column ``category``, if there is one.
      unit: column of what questions share (such as an image), so that intervals draw them together; "": nothing.

    Raises:
      UserError: no such file, no rows, fields of none of the forms, or a column that is not there.
    """
    rows = open_rows(path)
    if not len(rows):
        raise UserError(f"qa: {path} has no rows")
    try:
        items = OwnQuestions(rows, _converter(rows, path), category, unit)
        items[0]
    except RowError as error:
        raise UserError(f"qa: {error}") from None
    return items


class OwnQuestions:
    """Rows as questions, with category and unit by column."""

    def __init__(self, rows: Rows, convert: Convert, category: str = "", unit: str = ""):
        self.rows, self.convert, self.category, self.unit = rows, convert, category, unit
        self._id = next((name for name in IDS if name in rows[0]), "")

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Item:
        row = self.rows[index]
        name = row_name(row, self.rows, index, self._id)
        own = row.get(self._id)
        item = replace(self.convert(row, name, index), id=self.rows.location(index) if own is None else str(own))
        category = _label(row, self.category, name) if self.category else row.get(CATEGORY)
        unit = _label(row, self.unit, name) if self.unit else item.id
        return replace(item, category="" if is_missing(category) else str(category), unit=unit)


def _label(row: Mapping[str, Any], column: str, name: str) -> str:
    value = row.get(column)
    if is_missing(value) or isinstance(value, list | dict):
        state = f"is {shown(value)}" if column in row else f"is missing (columns: {', '.join(row)})"
        raise RowError(name, f"column '{column}' {state}; each row needs a text or a number there")
    return str(value)


def _converter(rows: Rows, path: str | Path) -> Convert:
    """How a row becomes a question, by the fields of the first one."""
    first, root = rows[0], _root(path)
    if "conversations" in first:
        return lambda row, name, index: _conversation(row, conversation_example(row, name, root))
    if not _column(first, QUESTION) and ("messages" in first or "prompt" in first):
        return lambda row, name, index: _conversation(row, trl_example(row, name, root))
    if not _column(first, QUESTION) or not _column(first, ANSWER):
        kind = "question" if not _column(first, QUESTION) else "correct answer"
        raise UserError(
            f"qa: {path}: its first row has no {kind} (fields: {', '.join(first)}); looked for conversations (LLaVA), "
            f"messages or prompt (TRL), or one of {', '.join(QUESTION)} with one of {', '.join(ANSWER)}: rename columns"
        )
    by_index = isinstance(rows, DelimitedRows) and "index" in first and {"image", "image_path"} & first.keys()
    shared = TsvImages(rows, cells.unique_ids(rows), root) if by_index else None

    def images_of(row: dict[str, Any], name: str, index: int) -> tuple[Any, ...]:
        column = _column(row, IMAGES)
        if shared is not None:
            return shared.of(row, index)
        return image_cells.images(row[column], name, root, column) if column else ()

    return lambda row, name, index: _columns(row, name, images_of(row, name, index))


def _root(path: Any) -> ImageRoot:
    folder = Path(path) if Path(path).is_dir() else Path(path).parent
    return ImageRoot(str(folder))


def _column(row: Mapping[str, Any], names: tuple[str, ...]) -> str:
    """The first of the columns that the row has, with a value if one of them has; "": none."""
    found = [name for name in names if name in row]
    return next((name for name in found if not is_missing(row[name])), found[0] if found else "")


def _columns(row: dict[str, Any], name: str, images: tuple[Any, ...]) -> Item:
    question, answer = _column(row, QUESTION), _column(row, ANSWER)
    if not question or not isinstance(row[question], str) or not row[question].strip():
        raise RowError(name, f"no question in {' or '.join(QUESTION)}; each row needs one")
    if not answer or is_missing(row[answer]) or row[answer] == []:
        raise RowError(name, f"no correct answer in {', '.join(ANSWER)}; each row needs one")
    listed = next((column for column in OPTIONS if not is_missing(row.get(column))), "")
    choices = cells.options(row, name, listed)
    if choices:
        lettered_columns = not listed and str(row[answer]).strip() in choices
        answers: tuple[str, ...] = (
            cells.letter_answer(row[answer], choices, name, "letter" if lettered_columns else "", answer),
        )
    else:
        answers = _accepted(row[answer], name, answer)
    letters = [letter for letter in cells.LETTERS if letter <= max(choices, default="")]
    hint = row.get("hint")
    return Item(
        "",
        row[question],
        images,
        tuple(choices.get(letter, "") for letter in letters),
        answers,
        hint=hint if isinstance(hint, str) else "",
    )


def _accepted(value: Any, name: str, column: str) -> tuple[str, ...]:
    """A text or number, or a list of accepted ones, also as JSON or as a Python literal."""
    listed = literal_list(value) if isinstance(value, str) else value
    values = listed if isinstance(listed, list | tuple) else [value]
    if wrong := [one for one in values if isinstance(one, bool) or not isinstance(one, str | int | float)]:
        raise RowError(
            name, f"column '{column}' has {shown(wrong[0])}; an answer is a text or a number, or a list of these"
        )
    return tuple(map(str, values))


def _conversation(row: Mapping[str, Any], example: Example) -> Item:
    """A question that is asked as it is; its options, if the row names some, are in its text."""
    item = item_of(example)
    if not item.choices:
        return item
    letter = cells.letter_answer(item.answers[0], item.choices, example.id)
    return replace(item, answers=(letter,), fields={**item.fields, WRITTEN: list(item.choices)})


def prompt(item: Item) -> str:
    """The question; options that it does not have in its own text follow it.

    Raises:
      UserError: the options were rotated, and stand in the text in their old order.
    """
    text = f"{item.hint}\n{item.question}" if item.hint else item.question
    written = item.fields.get(WRITTEN)
    if written is None and item.choices:
        text += lettered(item.choices) + LETTER
    elif written is not None and list(item.choices) != written:
        raise UserError(
            f"control rotated-options: question '{item.id}' has its options in its text, where they cannot change "
            "places; give them in columns"
        )
    # An image of an earlier turn is not put before this one again.
    return text if any(IMAGE in turn.content for turn in item.context) else asked(item, text)


BENCHMARKS = {
    "qa": Benchmark(
        read,
        {"ours": Variant(prompt, "choice_or_exact", CLUSTERED_MEAN, max_new_tokens=64)},
        answer_format="short",
        option_form="letter",
        by_column=True,
    )
}
