"""MME (Fu et al. 2023): 2,374 yes/no questions, two about each image; points for answers and for whole images."""

from __future__ import annotations

from pathlib import Path

from pivot_jax.eval.benchmarks.base import Benchmark, Item, Items, Variant
from pivot_jax.eval.benchmarks.prompts import WORD, asked, with_tail
from pivot_jax.eval.benchmarks.published import published
from pivot_jax.eval.benchmarks.row import Row
from pivot_jax.eval.benchmarks.toolkits import LMMS_EVAL_STOP, VLMEVALKIT_TOKENS
from pivot_jax.eval.scoring.points import MME

REQUEST = " Please answer yes or no."  # the end of each published question


def read(path: str | Path) -> Items:
    """Questions of lmms-lab/MME (split test) or of VLMEvalKit's MME.tsv. A unit is an image of a category."""
    return published(path, "MME", hf=_hub, tsv=_tsv, split="test", tsv_file="MME", id_key="question_id", repeated=True)


def _hub(row: Row) -> Item:
    return _item(row, row.text("question_id"))


def _tsv(row: Row) -> Item:
    return _item(row, row.optional("image_path") or row.image_row())


def _item(row: Row, image: str) -> Item:
    category = row.text("category")
    return Item(
        row.id,
        row.text("question"),
        row.images(),
        answers=(row.text("answer"),),
        category=category,
        unit=f"{category}/{Path(image).name}",
    )


def _one_word(item: Item) -> str:
    """The request to answer yes or no is replaced by the one for a single word."""
    return asked(item, item.question.replace(REQUEST, "").strip() + WORD)


def _lmms_eval(item: Item) -> str:
    """As :func:`_one_word`; seven questions keep the blank that they have before the request."""
    return asked(item, item.question.strip().replace(REQUEST, "") + WORD)


BENCHMARKS = {
    "mme": Benchmark(
        read,
        {
            "ours": Variant(_one_word, "yes_no", MME),
            "cambrian": Variant(
                with_tail(WORD), "exact_cambrian", MME, 32, note="images are told by name, not by the order of the rows"
            ),
            "lmms-eval": Variant(_lmms_eval, "yes_no_head", MME, 16, LMMS_EVAL_STOP),
            "vlmevalkit": Variant(
                with_tail(), "yes_no_words", MME, VLMEVALKIT_TOKENS, note="answers with both words or neither are wrong"
            ),
            "llava": Variant(_one_word, "yes_no_head", MME, 128),
        },
        answer_format="yes_no",
        questions=2374,
    )
}
