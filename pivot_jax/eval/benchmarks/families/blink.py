"""BLINK (Fu et al. 2024): 14 tasks of visual perception, 1,901 questions with one to four images; val."""

from __future__ import annotations

from pathlib import Path

from pivot_jax.data.sources import folders
from pivot_jax.errors import UserError
from pivot_jax.eval.benchmarks.base import Benchmark, Item, Items, Variant
from pivot_jax.eval.benchmarks.choice_prompts import (
    ONLY_LETTER,
    bracketed,
    plain_choice,
    published_text,
    respond_with,
    vlmevalkit_variant,
)
from pivot_jax.eval.benchmarks.prompts import asked
from pivot_jax.eval.benchmarks.published import published, tsv_item
from pivot_jax.eval.benchmarks.row import Row
from pivot_jax.eval.benchmarks.toolkits import LMMS_EVAL_STOP
from pivot_jax.eval.scoring.parts import Number, category, numbers

TASKS = (
    *("Art_Style", "Counting", "Forensic_Detection", "Functional_Correspondence", "IQ_Test", "Jigsaw"),
    *("Multi-view_Reasoning", "Object_Localization", "Relative_Depth", "Relative_Reflectance"),
    *("Semantic_Correspondence", "Spatial_Relation", "Visual_Correspondence", "Visual_Similarity"),
)
IMAGES = ("image_1", "image_2", "image_3", "image_4")
NUMBERS = {"task_mean": Number((category,)), "accuracy": Number()}


def read(path: str | Path) -> Items:
    """Questions of BLINK-Benchmark/BLINK (split val, all tasks), or of VLMEvalKit's BLINK.tsv.

    The category is the task; a folder may hold some of them. Versions differ in the answers of Relative_Reflectance.

    Raises:
      UserError: a folder of Parquet files without one of the tasks, or as :func:`published`.
    """
    tasks: tuple[str, ...] = TASKS
    if Path(path).is_dir() and (there := folders.configurations(Path(path))):
        tasks = tuple(task for task in TASKS if task in there)
        if not tasks:
            raise UserError(
                f"BLINK: {path} holds {', '.join(there)}, none of the tasks {', '.join(TASKS)}; name another"
            )
    return published(path, "BLINK", hf=_hub, tsv=tsv_item, split="val", config=tasks, tsv_file="BLINK", id_key="idx")


def _hub(row: Row) -> Item:
    choices = row.options("choices")
    return Item(
        row.id,
        row.text("question"),
        row.images(*IMAGES),
        choices=choices,
        answers=(row.letter(choices, "letter"),),
        category=row.text("sub_task"),
        text=row.text("prompt"),
    )


def _whole(item: Item) -> str:
    return published_text(item, lambda one: f"{one.question}\nSelect from the following choices.{bracketed(one)}")


BENCHMARKS = {
    "blink": Benchmark(
        read,
        {
            "ours": Variant(plain_choice(), "strict_letter", numbers("task_mean", NUMBERS)),
            "cambrian": Variant(
                lambda item: asked(item, _whole(item) + ONLY_LETTER),
                "blink_cambrian",
                numbers("accuracy", NUMBERS),
                32,
                first_image=True,
            ),
            "lmms-eval": Variant(
                lambda item: asked(item, respond_with(item) + _whole(item)),
                "blink_lmms_eval",
                numbers("accuracy", NUMBERS),
                1024,
                LMMS_EVAL_STOP,
                note="rules of 0.7.3; up to 0.7.2 the first letter of any word was the answer",
            ),
            "vlmevalkit": vlmevalkit_variant(numbers("accuracy", NUMBERS)),
        },
        answer_format="letter",
        option_form="letter",
        questions=1901,
    )
}
