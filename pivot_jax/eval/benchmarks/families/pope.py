"""POPE (Li et al. 2023): is an object in the image? 9,000 yes/no questions of three kinds about 500 COCO images."""

from __future__ import annotations

from pathlib import Path

from pivot_jax.data.sources import hub
from pivot_jax.eval.benchmarks.base import Benchmark, Item, Items, Variant
from pivot_jax.eval.benchmarks.prompts import WORD, asked, with_tail
from pivot_jax.eval.benchmarks.published import published
from pivot_jax.eval.benchmarks.row import Row
from pivot_jax.eval.benchmarks.toolkits import LMMS_EVAL_STOP, VLMEVALKIT_TOKENS
from pivot_jax.eval.scoring.points import pope

KINDS = ("adversarial", "popular", "random")


def read(path: str | Path) -> Items:
    """Questions of lmms-lab/POPE or of VLMEvalKit's POPE.tsv, which has each question once, with all of its kinds.

    Of the hub's set, the configuration ``default`` has all questions in one split; ``Full`` (``hf:lmms-lab/POPE/Full``,
    or a folder of this name) has a split for each kind. A unit is an image.
    """
    named = isinstance(path, str) and path.startswith(hub.PREFIX)
    full = hub.parse(str(path))["config"] == "Full" if named else Path(path).name == "Full"
    split = KINDS if full else "test"
    return published(path, "POPE", hf=_hub, tsv=_tsv, split=split, tsv_file="POPE", id_key="id", repeated=True)


def _hub(row: Row) -> Item:
    return _item(row, row.text("image_source"))


def _tsv(row: Row) -> Item:
    return _item(row, row.optional("image_path") or row.image_row())


def _item(row: Row, image: str) -> Item:
    return Item(
        row.id,
        row.text("question"),
        row.images(),
        answers=(row.text("answer"),),
        category=row.text("category"),
        unit=image,
    )


def _stripped(item: Item) -> str:
    return asked(item, item.question.strip() + WORD)


BENCHMARKS = {
    "pope": Benchmark(
        read,
        {
            "ours": Variant(_stripped, "yes_no", pope("mean_f1")),
            "cambrian": Variant(with_tail(WORD), "yes_no_first", pope("accuracy"), 128),
            "lmms-eval": Variant(
                _stripped,
                "yes_no_alone",
                pope("accuracy", unread=False),
                128,
                LMMS_EVAL_STOP,
                note="yes_share is of the answers; its yes_ratio is of the correct ones",
            ),
            "vlmevalkit": Variant(with_tail(), "yes_no_words", pope("f1"), VLMEVALKIT_TOKENS),
            "llava": Variant(_stripped, "yes_no_negation_llava", pope("mean_f1"), 128),
        },
        answer_format="yes_no",
    )
}
