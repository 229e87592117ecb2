"""Prompts of multiple-choice questions that several benchmarks share."""

from __future__ import annotations

from collections.abc import Callable
from itertools import takewhile

from pivot_jax.eval.benchmarks.base import Item, Variant
from pivot_jax.eval.benchmarks.cells import PANDAS
from pivot_jax.eval.benchmarks.prompts import LETTER, asked, lettered
from pivot_jax.eval.benchmarks.toolkits import VLMEVALKIT_TOKENS
from pivot_jax.eval.scoring.aggregate import Aggregate
from pivot_jax.eval.scoring.parse import LETTERS

ONLY_LETTER = "\nPlease answer directly with only the letter of the correct option and nothing else."
LLAVA_NONE = ("nan", "none")  # LLaVA's MMBench: an option that reads so, in any case, ends the options


def choice(item: Item) -> str:
    """``[hint⏎]question⏎A. …`` and the request for the letter; LLaVA's, and with small changes everybody's."""
    hint = f"{item.hint}\n" if item.hint.strip() else ""
    return asked(item, f"{hint}{item.question}{lettered(item.choices)}{LETTER}")


def plain_choice(tail: str = LETTER) -> Callable[[Item], str]:
    """The question, its options and ``tail``; a hint is left out."""
    return lambda item: asked(item, f"{item.question}{lettered(item.choices)}{tail}")


def cambrian_choice(item: Item) -> str:
    """Cambrian's MMBench and SEED-Bench: ``[hint⏎]question Options:⏎A. …``."""
    hint = f"{item.hint}\n" if item.hint else ""
    return asked(item, f"{hint}{item.question} Options:{lettered(item.choices)}{LETTER}")


def llava_choice(item: Item) -> str:
    """LLaVA's MMBench, whose options end before the first one that reads "none"."""
    kept = tuple(takewhile(lambda option: option.lower() not in LLAVA_NONE, item.choices))
    hint = f"{item.hint}\n" if item.hint and item.hint.lower() not in LLAVA_NONE else ""
    return asked(item, f"{hint}{item.question}{lettered(kept)}{LETTER}")


def vlmevalkit_choice(item: Item) -> str:
    """VLMEvalKit's prompt of every set of options. Its reader takes an option "None" or "N/A" for an empty cell."""
    hint = f"Hint: {item.hint}\n" if item.hint not in PANDAS else ""
    options = lettered(["" if option in PANDAS else option for option in item.choices])
    request = f"\nOptions:{options}\nPlease select the correct answer from the options above. \n" if options else "\n"
    return asked(item, f"{hint}Question: {item.question}{request}")


def published_text(item: Item, written: Callable[[Item], str]) -> str:
    """The text with the options as it was published, or else as ``written`` (after a rotation of the options)."""
    return item.text or written(item)


def bracketed(item: Item) -> str:
    """Options as lines ``⏎(A) first⏎(B) second``."""
    listed = zip(LETTERS, item.choices, strict=False)
    return "".join(f"\n({letter}) {option}" for letter, option in listed if option)


def respond_with(item: Item) -> str:
    """lmms-eval's request for an option's letter, in BLINK and CV-Bench."""
    letters = ", ".join(LETTERS[: len(item.choices)])
    return f"Note: You only need to respond with {letters} without providing any additional information.\n"


def vlmevalkit_variant(aggregate: Aggregate) -> Variant:
    """VLMEvalKit's way with multiple choice, where a benchmark has no other."""
    return Variant(
        vlmevalkit_choice,
        "vlmevalkit_option",
        aggregate,
        VLMEVALKIT_TOKENS,
        note="no judge: what the rules leave open is wrong",
    )
