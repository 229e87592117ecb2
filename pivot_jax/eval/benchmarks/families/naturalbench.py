"""NaturalBench (Li et al. 2024): 1,900 groups of two images and two questions, with opposite answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pivot_jax.errors import RowError
from pivot_jax.eval.benchmarks.base import Benchmark, Item, Items, Variant
from pivot_jax.eval.benchmarks.cells import shown
from pivot_jax.eval.benchmarks.prompts import asked
from pivot_jax.eval.benchmarks.published import published
from pivot_jax.eval.benchmarks.row import Row
from pivot_jax.eval.benchmarks.toolkits import LMMS_EVAL_STOP, VLMEVALKIT_TOKENS
from pivot_jax.eval.scoring.consistency import NATURALBENCH

REQUESTS = {
    "yes_no": " Please answer Yes or No.",
    "multiple_choice": " Please output the letter corresponding to the correct option.",
}


def read(path: str | Path) -> Items:
    """Questions of BaiqiL/NaturalBench, of its flat form NaturalBench-lmms-eval, or of VLMEvalKit's TSV of that.

    A group is four indices from a multiple of 4: question 0 on images 0 and 1, then question 1.
    """
    items = published(path, "NaturalBench", hf=_hub, tsv=_tsv, tsv_file="NaturalBenchDataset", id_key="Index")
    return Groups(items) if "questions" in items[0].fields else items


class Groups:
    """The four questions of each group of a set that has a group in a row."""

    def __init__(self, groups: Items):
        self.groups = groups

    def __len__(self) -> int:
        return 4 * len(self.groups)

    def __getitem__(self, index: int) -> Item:
        group, at = self.groups[index // 4], index % 4
        number = 4 * group.unit + at
        question, image = at // 2, at % 2
        text, answer = group.fields["questions"][question], group.answers[at]
        return _item(number, text, group.images[image : image + 1], answer, group.category)


def _hub(row: Row) -> Item:
    if "Question_0" in row.values:
        return _group(row)
    return _of_row(row, "Question", "Answer", "Question_Type", "Image")


def _tsv(row: Row) -> Item:
    return _of_row(row, "question", "answer", "type", "image")


def _group(row: Row) -> Item:
    """A row of the hub's first form: two images, two questions, and an answer to each question about each image."""
    answers = [row.text(f"Image_{image}_Question_{question}") for question in (0, 1) for image in (0, 1)]
    return Item(
        row.id,
        "",
        row.image("Image_0") + row.image("Image_1"),
        answers=tuple(answers),
        category=_kind(row, "Question_Type" if "Question_Type" in row.values else "Question Type"),
        unit=_number(row),
        fields={"questions": [row.text("Question_0"), row.text("Question_1")]},
    )


def _of_row(row: Row, question: str, answer: str, kind: str, image: str) -> Item:
    return _item(_number(row), row.text(question), row.image(image), row.text(answer), _kind(row, kind))


def _item(number: int, question: str, image: tuple[Any, ...], answer: str, kind: str) -> Item:
    fields = {"question": number % 4 // 2, "image": number % 2}
    return Item(str(number), question, image, answers=(answer,), category=kind, unit=number // 4, fields=fields)


def _kind(row: Row, column: str) -> str:
    if (kind := row.text(column)) not in REQUESTS:
        raise RowError(row.name, f"column '{column}' is {shown(kind)}, not one of {', '.join(REQUESTS)}; correct it")
    return kind


def _number(row: Row) -> int:
    if not row.id.isdecimal():
        raise RowError(row.name, f"the index is {shown(row.id)}; it is a number, because four in a row make a group")
    return int(row.id)


def _requested(item: Item) -> str:
    return asked(item, item.question + REQUESTS[item.category])


BENCHMARKS = {
    "naturalbench": Benchmark(
        read,
        {
            "ours": Variant(_requested, "yes_no_or_letter", NATURALBENCH),
            "lmms-eval": Variant(_requested, "first_of_two", NATURALBENCH, 16, LMMS_EVAL_STOP),
            "vlmevalkit": Variant(_requested, "first_of_two", NATURALBENCH, VLMEVALKIT_TOKENS),
        },
        answer_format="short",
        questions=7600,
    )
}
