"""MME-RealWorld (Zhang et al. 2024): 23,609 questions about large photographs, with five options; E is "not shown"."""

from __future__ import annotations

import re
from pathlib import Path

from pivot_jax.errors import RowError
from pivot_jax.eval.benchmarks.base import Benchmark, Item, Items, Variant
from pivot_jax.eval.benchmarks.cells import literal_list, shown
from pivot_jax.eval.benchmarks.choice_prompts import bracketed, plain_choice, published_text
from pivot_jax.eval.benchmarks.image_cells import images_key
from pivot_jax.eval.benchmarks.prompts import asked
from pivot_jax.eval.benchmarks.published import published
from pivot_jax.eval.benchmarks.row import Row
from pivot_jax.eval.benchmarks.toolkits import LMMS_EVAL_STOP, VLMEVALKIT_TOKENS
from pivot_jax.eval.scoring.parse import LETTERS
from pivot_jax.eval.scoring.parts import Number, category, field_of, numbers

OPTIONS = "multi-choice options"
HEAD = "The choices are listed below:"
REQUEST = (
    "\nSelect the best answer to the above multiple-choice question based on the image. Respond with only the letter "
    "(A, B, C, D, or E) of the correct option."
)
_OPTION = re.compile(r"\(([A-Z])\) ?(.*)", re.DOTALL)
# Perception and Reasoning, the kinds of image in them, and the mean over these.
NUMBERS = {
    "accuracy": Number(),
    "accuracy/": Number(each=field_of("task")),
    "category_mean": Number((category,)),
}


def read(path: str | Path) -> Items:
    """Questions of yifanzhang114/MME-RealWorld-Lmms-eval or MME-RealWorld-lite-lmms-eval, or of VLMEvalKit's TSV.

    The hub's only split is ``train``. A unit is an image.
    """
    return published(path, "MME-RealWorld", hf=_hub, tsv=_tsv, split="train", tsv_file="MME-RealWorld", id_key="index")


def _hub(row: Row) -> Item:
    return _item(row, row.texts(OPTIONS), row.images("bytes"))


def _tsv(row: Row) -> Item:
    """Of the full set, whose options are lines after a heading, or of the lite one, which has them as a list."""
    text = row.text(OPTIONS)
    listed = literal_list(text) or text.removeprefix(f"{HEAD}\n").split("\n(")
    options = [str(one) if str(one).startswith("(") else f"({one}" for one in listed]
    return _item(row, tuple(options), row.images())


def _item(row: Row, options: tuple[str, ...], found: tuple[object, ...]) -> Item:
    split = [_OPTION.fullmatch(option) for option in options]
    if "".join(match[1] for match in split if match) != LETTERS[: len(options)]:
        raise RowError(row.name, f"column '{OPTIONS}' is {shown(options)}, not '(A) …', '(B) …', …; correct it")
    choices = tuple(match[2] for match in split if match)
    kind = row.text("category")
    return Item(
        row.id,
        row.text("question"),
        found,
        choices=choices,
        answers=(row.letter(choices, "letter"),),
        category=kind,
        unit=images_key(found),
        fields={"task": kind.partition("/")[0]} | row.fields("l2-category"),
        text=f"{row.text('question')} {HEAD}\n" + "\n".join(options),
    )


def _requested(tail: str) -> Variant:
    def prompt(item: Item) -> str:
        whole = published_text(item, lambda one: f"{one.question} {HEAD}{bracketed(one)}")
        return asked(item, whole + REQUEST + tail)

    return Variant(prompt, "mme_realworld", numbers("accuracy", NUMBERS, units="cluster"), stop=LMMS_EVAL_STOP)


_LMMS_EVAL, _VLMEVALKIT = _requested("\nThe best answer is: "), _requested(" \nThe best answer is:")
_VARIANTS = {
    "ours": Variant(plain_choice(), "strict_letter", numbers("accuracy", NUMBERS, units="cluster")),
    "lmms-eval": _LMMS_EVAL,
    "vlmevalkit": Variant(_VLMEVALKIT.prompt, "mme_realworld_vlmevalkit", _VLMEVALKIT.aggregate, VLMEVALKIT_TOKENS),
}
BENCHMARKS = {
    "mme-realworld": Benchmark(read, _VARIANTS, answer_format="letter", option_form="letter"),
}
