"""AI2D (Kembhavi et al. 2016): multiple choice about diagrams whose labels are replaced by letters; test."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from pivot_jax.eval.benchmarks.base import Benchmark, Item, Items, Variant
from pivot_jax.eval.benchmarks.choice_prompts import plain_choice, vlmevalkit_variant
from pivot_jax.eval.benchmarks.image_cells import images_key
from pivot_jax.eval.benchmarks.published import published, tsv_item
from pivot_jax.eval.benchmarks.row import Row
from pivot_jax.eval.benchmarks.toolkits import LMMS_EVAL_STOP
from pivot_jax.eval.scoring.aggregate import CLUSTERED_MEAN


def read(path: str | Path) -> Items:
    """Questions of lmms-lab/ai2d (split test), or of VLMEvalKit's AI2D_TEST.tsv; a unit is a diagram."""
    return published(path, "AI2D", hf=_hub, tsv=_tsv, split="test", tsv_file="AI2D_TEST")


def _hub(row: Row) -> Item:
    choices, found = row.options("options"), row.images()
    answers = (row.letter(choices, "index"),)
    return Item(row.id, row.text("question"), found, choices=choices, answers=answers, unit=images_key(found))


def _tsv(row: Row) -> Item:
    item = tsv_item(row)
    return replace(item, unit=images_key(item.images))


BENCHMARKS = {
    "ai2d": Benchmark(
        read,
        {
            "ours": Variant(plain_choice(), "strict_letter", CLUSTERED_MEAN),
            "cambrian": Variant(plain_choice(), "ai2d_cambrian", CLUSTERED_MEAN, 512),
            "lmms-eval": Variant(plain_choice(), "ai2d_lmms_eval", CLUSTERED_MEAN, 16, LMMS_EVAL_STOP),
            "vlmevalkit": vlmevalkit_variant(CLUSTERED_MEAN),
        },
        answer_format="letter",
        option_form="letter",
        questions=3088,
    )
}
