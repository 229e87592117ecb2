"""OCRBench (Liu et al. 2023): 1,000 questions of ten types about text in images, a point for each right answer."""

from __future__ import annotations

from pathlib import Path

from pivot_jax.eval.benchmarks.base import Benchmark, Item, Items, Variant
from pivot_jax.eval.benchmarks.prompts import asked, with_tail
from pivot_jax.eval.benchmarks.published import published, tsv_answers
from pivot_jax.eval.benchmarks.row import Row
from pivot_jax.eval.benchmarks.toolkits import LMMS_EVAL_STOP, VLMEVALKIT_TOKENS
from pivot_jax.eval.scoring.aggregate import MEAN
from pivot_jax.eval.scoring.points import OCRBENCH


def read(path: str | Path) -> Items:
    """Questions of echo840/OCRBench (split test), of the authors' OCRBench.json, or of VLMEvalKit's OCRBench.tsv.

    The category is the type of the question.
    """
    return published(path, "OCRBench", hf=_hub, tsv=_tsv, split="test", tsv_file="OCRBench")


def _hub(row: Row) -> Item:
    if "image_path" in row.values:  # the authors' file
        return Item(
            row.id,
            row.text("question"),
            row.images("image_path"),
            answers=row.texts("answers"),
            category=row.text("type"),
        )
    return Item(
        row.id, row.text("question"), row.images(), answers=row.texts("answer"), category=row.text("question_type")
    )


def _tsv(row: Row) -> Item:
    return Item(row.id, row.text("question"), row.images(), answers=tsv_answers(row), category=row.text("category"))


def _stripped(item: Item) -> str:
    return asked(item, item.question.strip())


BENCHMARKS = {
    "ocrbench": Benchmark(
        read,
        {
            "ours": Variant(_stripped, "substring", OCRBENCH, 128),
            "cambrian": Variant(
                with_tail("\nGive the short answer directly."), "substring", MEAN, 512, note="in percent, not points"
            ),
            "lmms-eval": Variant(_stripped, "substring_lmms_eval", OCRBENCH, 128, LMMS_EVAL_STOP),
            "vlmevalkit": Variant(with_tail(), "substring", OCRBENCH, VLMEVALKIT_TOKENS),
        },
        answer_format="short",
        questions=1000,
    )
}
