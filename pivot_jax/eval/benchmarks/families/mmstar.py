"""MMStar (Chen et al. 2024): 1,500 questions that cannot be answered without the image, in 6 categories of 3 each."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

from pivot_jax.errors import RowError
from pivot_jax.eval.benchmarks.base import Benchmark, Item, Items, Variant
from pivot_jax.eval.benchmarks.cells import shown
from pivot_jax.eval.benchmarks.choice_prompts import ONLY_LETTER, plain_choice, published_text, vlmevalkit_variant
from pivot_jax.eval.benchmarks.prompts import LETTER, asked
from pivot_jax.eval.benchmarks.published import published, tsv_item
from pivot_jax.eval.benchmarks.row import Row
from pivot_jax.eval.benchmarks.toolkits import LMMS_EVAL_STOP, LMMS_EVAL_TOKENS
from pivot_jax.eval.scoring.parse import LETTERS
from pivot_jax.eval.scoring.parts import Number, category, field_of, numbers

REMOVED = " Please answer yes or no."  # lmms-eval takes it out of a question
_L2 = field_of("l2_category")
NUMBERS = {"accuracy": Number(), "l2_mean": Number((_L2,)), "l2_mean/": Number((_L2,), each=category)}


def read(path: str | Path) -> Items:
    """Questions of Lin-Chen/MMStar (its only split), or of VLMEvalKit's MMStar.tsv.

    The first form has the options inside the question: ``… Options: A: x, B: y, C: z, D: w``.
    """
    return published(path, "MMStar", hf=_hub, tsv=tsv_item, tsv_file="MMStar", id_key="index")


def _hub(row: Row) -> Item:
    text = row.text("question")
    question, choices = split_options(text)
    if not choices:
        raise RowError(row.name, f"column 'question' has no 'Options: A: …, B: …' ({shown(text)}); get the file again")
    return Item(
        row.id,
        question,
        row.images(),
        choices=choices,
        answers=(row.letter(choices, "letter"),),
        category=row.optional("category"),
        fields=row.fields("l2_category"),
        text=text,
    )


def split_options(text: str) -> tuple[str, tuple[str, ...]]:
    """Question and options of ``question Options: A: x, B: y``; no options where they are written in another way."""
    question, mark, listed = text.rpartition("Options:")
    if not mark:
        return text, ()
    found, rest = [], listed.strip()
    for letter, after in pairwise(LETTERS):
        if not rest.startswith(f"{letter}:"):
            break
        option, _, rest = re.sub(rf",\s*{after}:", f"\0{after}:", rest, count=1).partition("\0")
        found.append(option.removeprefix(f"{letter}:").strip())
    return question.strip(), tuple(found)


def _whole(item: Item) -> str:
    def written(one: Item) -> str:
        options = ", ".join(f"{letter}: {text}" for letter, text in zip(LETTERS, one.choices, strict=False) if text)
        return f"{one.question}\nOptions: {options}"

    return published_text(item, written)


def _cambrian(item: Item) -> str:
    return asked(item, _whole(item) + ONLY_LETTER)


def _lmms_eval(item: Item) -> str:
    return asked(item, _whole(item).strip().replace(REMOVED, "") + LETTER.removesuffix("."))


BENCHMARKS = {
    "mmstar": Benchmark(
        read,
        {
            "ours": Variant(plain_choice(), "strict_letter", numbers("accuracy", NUMBERS)),
            "cambrian": Variant(_cambrian, "mmstar_cambrian", numbers("accuracy", NUMBERS), 128),
            "lmms-eval": Variant(
                _lmms_eval,
                "abcd_lmms_eval",
                numbers("l2_mean", NUMBERS),
                LMMS_EVAL_TOKENS,
                LMMS_EVAL_STOP,
                note="'average' is the mean of the 18 accuracies, and a category is the mean of its three",
            ),
            "vlmevalkit": vlmevalkit_variant(numbers("accuracy", NUMBERS)),
        },
        answer_format="letter",
        option_form="letter",
        questions=1500,
    )
}
