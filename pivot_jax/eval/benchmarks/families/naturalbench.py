"""NaturalBench (Li et al. 2024): 1,900 groups of two images and two questions, with opposite answers."""

from __future__ import annotations

from pathlib import Path

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
    """Questions of BaiqiL/NaturalBench-lmms-eval (split test) or of VLMEvalKit's NaturalBenchDataset.tsv.

    A group is four indices from a multiple of 4: question 0 on images 0 and 1, then question 1.
    """
    return published(
        path, "NaturalBench", hf=_hub, tsv=_tsv, split="test", tsv_file="NaturalBenchDataset", id_key="Index"
    )


def _hub(row: Row) -> Item:
    return _item(row, ("Question", "Answer", "Question_Type", "Image"))


def _tsv(row: Row) -> Item:
    return _item(row, ("question", "answer", "type", "image"))


def _item(row: Row, columns: tuple[str, str, str, str]) -> Item:
    question, answer, kind, image = columns
    if row.text(kind) not in REQUESTS:
        raise RowError(
            row.name, f"column '{kind}' is {shown(row.text(kind))}, not one of {', '.join(REQUESTS)}; correct it"
        )
    if not row.id.isdecimal():
        raise RowError(row.name, f"the index is {shown(row.id)}; it is a number, because four in a row make a group")
    number = int(row.id)
    return Item(
        row.id,
        row.text(question),
        row.images(image),
        answers=(row.text(answer),),
        category=row.text(kind),
        unit=number // 4,
        fields={"question": number % 4 // 2, "image": number % 2},
    )


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
