"""ChartQA (Masry et al. 2022): questions about charts, 1,250 by people and 1,250 made from captions; test."""

from __future__ import annotations

from pathlib import Path

from pivot_jax.errors import RowError
from pivot_jax.eval.benchmarks.base import Benchmark, Item, Items, Variant
from pivot_jax.eval.benchmarks.cells import shown
from pivot_jax.eval.benchmarks.prompts import WORD, with_tail
from pivot_jax.eval.benchmarks.published import published, tsv_answers
from pivot_jax.eval.benchmarks.row import Row
from pivot_jax.eval.benchmarks.toolkits import LMMS_EVAL_STOP, VLMEVALKIT_TOKENS

KINDS = {
    **dict.fromkeys(("human", "human_test", "test_human", "0"), "human"),
    **dict.fromkeys(("augmented", "augmented_test", "test_augmented", "1"), "augmented"),
}


def read(path: str | Path) -> Items:
    """Questions of lmms-lab/ChartQA or HuggingFaceM4/ChartQA (split test), or of VLMEvalKit's ChartQA_TEST.tsv.

    The category is "human" or "augmented".
    """
    return published(path, "ChartQA", hf=_hub, tsv=_tsv, split="test", tsv_file="ChartQA_TEST")


def _hub(row: Row) -> Item:
    if "query" in row.values:
        return _item(row, "query", row.texts("label"), "human_or_machine")
    return _item(row, "question", (row.text("answer"),), "type")


def _tsv(row: Row) -> Item:
    return _item(row, "question", tsv_answers(row), "split")


def _item(row: Row, question: str, answers: tuple[str, ...], kind: str) -> Item:
    if (found := row.text(kind)) not in KINDS:
        raise RowError(row.name, f"column '{kind}' is {shown(found)}, not one of {', '.join(KINDS)}; correct it")
    return Item(row.id, row.text(question), row.images(), answers=answers, category=KINDS[found])


BENCHMARKS = {
    "chartqa": Benchmark(
        read,
        {
            "ours": Variant(with_tail(WORD), "relaxed"),
            "cambrian": Variant(
                with_tail("\nAnswer the question using a single number or phrase."),
                "relaxed_cambrian",
                max_new_tokens=128,
            ),
            "lmms-eval": Variant(
                with_tail("\nAnswer the question with a single word."), "relaxed_lmms_eval", stop=LMMS_EVAL_STOP
            ),
            "vlmevalkit": Variant(with_tail(WORD), "relaxed_vlmevalkit", max_new_tokens=VLMEVALKIT_TOKENS),
        },
        answer_format="short",
        questions=2500,
    )
}
