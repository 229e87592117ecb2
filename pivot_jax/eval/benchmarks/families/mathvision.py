"""MATH-Vision (Wang et al. 2024): mathematics with an image, free answers and multiple choice, asked step by step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pivot_jax.data.sources.base import ImageRoot, rooted, with_images
from pivot_jax.errors import RowError
from pivot_jax.eval.benchmarks.base import Benchmark, Item, Items, Variant, question_file, question_rows
from pivot_jax.eval.benchmarks.cells import shown
from pivot_jax.eval.benchmarks.prompts import asked, lettered
from pivot_jax.eval.benchmarks.published import is_published, published
from pivot_jax.eval.benchmarks.row import Row
from pivot_jax.eval.benchmarks.toolkits import LMMS_EVAL_STOP, VLMEVALKIT_TOKENS
from pivot_jax.eval.scoring.aggregate import MEAN
from pivot_jax.eval.scoring.parse import LETTERS

# The authors' own request.
PROMPT_HEAD = (
    'Please solve the problem step by step and put your answer in one "\\boxed{}". '
    'If it is a multiple choice question, only one letter is allowed in the "\\boxed{}".\n'
)
LMMS_EVAL_LETTER = "\nAnswer the question with the option's letter from the given choices directly."
LMMS_EVAL_HEAD = 'Please solve the problem step by step and put your answer in one "\\boxed{}".'


def read(path: str | Path) -> Items:
    """Questions of MathLLMs/MathVision (split test), of VLMEvalKit's MathVision.tsv, or of the authors' ``data.jsonl``.

    The category is the subject.

    Raises:
      UserError: no such file, or a row that lacks a field.
    """
    if not is_published(path):
        file = question_file(path, "MATH-Vision")
        rows = question_rows(file, "MATH-Vision", ("id", "question", "answer", "image"))
        return [_item(row, file.parent) for row in rows]
    return published(path, "MATH-Vision", hf=_hub, tsv=_tsv, split="test", tsv_file="MathVision", id_key="id")


def _item(row: dict[str, Any], folder: Path) -> Item:
    return Item(
        str(row["id"]),
        str(row["question"]),
        rooted(row["image"], ImageRoot(str(folder)), str(row["id"])),
        choices=tuple(map(str, row.get("options") or ())),
        answers=(str(row["answer"]),),
        category=str(row.get("subject", "")),
    )


def _hub(row: Row) -> Item:
    return _published(row, row.options("options"), row.images("decoded_image"), row.optional("subject"))


def _tsv(row: Row) -> Item:
    return _published(row, row.options("choices"), row.images(), row.optional("category"))


def _published(row: Row, choices: tuple[str, ...], images: tuple[Any, ...], subject: str) -> Item:
    answer = row.text("answer")
    if choices and answer not in tuple(LETTERS[: len(choices)]):
        raise RowError(row.name, f"column 'answer' is {shown(answer)}, no letter of its {len(choices)} options")
    return Item(row.id, row.text("question"), images, choices=choices, answers=(answer,), category=subject)


def _prompt(item: Item) -> str:
    # Options that are only the letters name parts of the image; repeating them as a list would say nothing.
    options = "" if item.choices == tuple(LETTERS[: len(item.choices)]) else lettered(item.choices)
    question = with_images(f"{item.question}{options}", 1).removeprefix("<image>\n")
    return f"<image>\n{PROMPT_HEAD}{question}"


def _lmms_eval(item: Item) -> str:
    """The request and the question without a blank between them; ``<image1>`` stays."""
    listed = lettered(item.choices).removeprefix("\n")
    options = f"\nChoices: {listed}{LMMS_EVAL_LETTER}" if item.choices else ""
    return asked(item, f"{LMMS_EVAL_HEAD}{item.question}{options}")


BENCHMARKS = {
    "mathvision": Benchmark(
        read,
        {
            "ours": Variant(_prompt, "mathvision", max_new_tokens=512),
            "lmms-eval": Variant(
                _lmms_eval,
                "mathvision_lmms_eval",
                MEAN,
                16384,
                LMMS_EVAL_STOP,
                note="its standard evaluation, without a judge; an answer ends at its first blank line",
            ),
            "vlmevalkit": Variant(
                lambda item: asked(item, item.question),
                "mathvision_vlmevalkit",
                MEAN,
                VLMEVALKIT_TOKENS,
                note="no judge: what its rules leave open is wrong. Its code takes an answer 'A' for any gold that is "
                "a number; here it is wrong",
            ),
        },
        answer_format="short",
    )
}
