"""SEED-Bench (Li et al. 2023), its questions about images: multiple choice with four options."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from pivot_jax.errors import RowError
from pivot_jax.eval.benchmarks.base import Benchmark, Item, Items, Variant
from pivot_jax.eval.benchmarks.cells import shown
from pivot_jax.eval.benchmarks.choice_prompts import cambrian_choice, plain_choice, vlmevalkit_variant
from pivot_jax.eval.benchmarks.published import published, tsv_item
from pivot_jax.eval.benchmarks.row import Row
from pivot_jax.eval.benchmarks.toolkits import LMMS_EVAL_TOKENS
from pivot_jax.eval.scoring.aggregate import CLUSTERED_MEAN

TYPES = (
    *("Scene Understanding", "Instance Identity", "Instance Attribute", "Instance Location", "Instance Counting"),
    *("Spatial Relation", "Instance Interaction", "Visual Reasoning", "Text Recognition"),
)  # question_type_id 1 to 9; from 10 on they are about videos
CHOICES = ("choice_a", "choice_b", "choice_c", "choice_d")


def read(path: str | Path) -> Items:
    """Image rows of lmms-lab/SEED-Bench (split test), or of VLMEvalKit's SEEDBench_IMG.tsv.

    The first has question 49914 twice; the second one is ``49914#2``.
    """
    return published(
        path,
        "SEED-Bench",
        hf=_hub,
        tsv=_tsv,
        split="test",
        tsv_file="SEEDBench_IMG",
        id_key="question_id",
        repeated=True,
        where=("data_type", "image"),
    )


def _hub(row: Row) -> Item:
    kind = row.values.get("question_type_id")
    if not isinstance(kind, int) or not 1 <= kind <= len(TYPES):
        raise RowError(
            row.name, f"column 'question_type_id' is {shown(kind)}, not a number from 1 to {len(TYPES)}; correct it"
        )
    choices = tuple(row.text(column) for column in CHOICES)
    return Item(
        row.id,
        row.text("question"),
        row.images(),
        choices=choices,
        answers=(row.letter(choices, "letter"),),
        category=TYPES[kind - 1],
        unit=row.text("data_id"),
    )


def _tsv(row: Row) -> Item:
    return replace(tsv_item(row), unit=row.image_row())


BENCHMARKS = {
    "seed": Benchmark(
        read,
        {
            "ours": Variant(plain_choice(), "strict_letter", CLUSTERED_MEAN),
            "cambrian": Variant(cambrian_choice, "letter", CLUSTERED_MEAN, 512, first_image=True),
            "lmms-eval": Variant(
                plain_choice(), "seed_lmms_eval", CLUSTERED_MEAN, LMMS_EVAL_TOKENS, ("ASSISTANT:",), note="seed_image"
            ),
            "vlmevalkit": vlmevalkit_variant(CLUSTERED_MEAN),
            "llava": Variant(
                plain_choice(),
                "same_text_llava",
                CLUSTERED_MEAN,
                128,
                note="the prompt is in a question file that is not published with the code",
            ),
        },
        answer_format="letter",
        option_form="letter",
    )
}
