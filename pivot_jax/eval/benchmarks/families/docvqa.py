"""DocVQA (Mathew et al. 2021): questions about pages of documents, scored by edit distance; validation."""

from __future__ import annotations

from pathlib import Path

from pivot_jax.eval.benchmarks.base import Benchmark, Item, Items, Variant
from pivot_jax.eval.benchmarks.prompts import WORD, with_tail
from pivot_jax.eval.benchmarks.published import published, tsv_answers
from pivot_jax.eval.benchmarks.row import Row
from pivot_jax.eval.benchmarks.toolkits import LMMS_EVAL_STOP, VLMEVALKIT_TOKENS
from pivot_jax.eval.scoring.aggregate import CLUSTERED_MEAN


def read(path: str | Path) -> Items:
    """Questions of lmms-lab/DocVQA (configuration DocVQA, split validation) or of VLMEvalKit's DocVQA_VAL.tsv.

    A unit is a page.
    """
    return published(
        path,
        "DocVQA",
        hf=_hub,
        tsv=_tsv,
        split="validation",
        config="DocVQA",
        tsv_file="DocVQA_VAL",
        id_key="questionId",
    )


def _hub(row: Row) -> Item:
    page = f"{row.text('ucsf_document_id')}_{row.text('ucsf_document_page_no')}"
    return Item(row.id, row.text("question"), row.images(), answers=row.texts("answers"), unit=page)


def _tsv(row: Row) -> Item:
    unit = row.optional("image_path") or row.image_row()
    return Item(row.id, row.text("question"), row.images(), answers=tsv_answers(row), unit=unit)


BENCHMARKS = {
    "docvqa": Benchmark(
        read,
        {
            "ours": Variant(with_tail(WORD), "anls", CLUSTERED_MEAN, 32),
            "cambrian": Variant(
                with_tail("\nGive the short answer directly."),
                "anls",
                CLUSTERED_MEAN,
                128,
                note="it asks the test split and writes a file for the benchmark's server, whose formula this is",
            ),
            "lmms-eval": Variant(with_tail(WORD), "anls_toolkits", CLUSTERED_MEAN, 32, LMMS_EVAL_STOP),
            "vlmevalkit": Variant(with_tail(WORD), "anls_toolkits", CLUSTERED_MEAN, VLMEVALKIT_TOKENS),
        },
        answer_format="short",
        questions=5349,
    )
}
