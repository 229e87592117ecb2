"""RealWorldQA (xAI 2024): photographs from cars and elsewhere; multiple choice, or one word or number; test."""

from __future__ import annotations

import re
from pathlib import Path

from pivot_jax.eval.benchmarks.base import Benchmark, Item, Items, Variant
from pivot_jax.eval.benchmarks.choice_prompts import ONLY_LETTER, plain_choice, published_text, vlmevalkit_choice
from pivot_jax.eval.benchmarks.prompts import asked, lettered
from pivot_jax.eval.benchmarks.published import published, tsv_item
from pivot_jax.eval.benchmarks.row import Row
from pivot_jax.eval.benchmarks.toolkits import LMMS_EVAL_STOP, VLMEVALKIT_TOKENS

_OPTION = re.compile(r"([A-Z])\. ?(.*)")


def read(path: str | Path) -> Items:
    """Questions of lmms-lab/RealWorldQA (split test), or of VLMEvalKit's RealWorldQA.tsv.

    The first form has options and the request for a short answer in the question. In the second all have options.
    """
    return published(path, "RealWorldQA", hf=_hub, tsv=tsv_item, split="test", tsv_file="RealWorldQA")


def _hub(row: Row) -> Item:
    text = row.text("question")
    question, choices = split_options(text)
    if not choices:
        return Item(row.id, text, row.images(), answers=(row.text("answer").strip(),), text=text)
    answers = (row.letter(choices, "letter"),)
    return Item(row.id, question, row.images(), choices=choices, answers=answers, text=text)


def split_options(text: str) -> tuple[str, tuple[str, ...]]:
    """Question and options of ``question⏎⏎A. x⏎B. y⏎⏎request``; no options where there are not two such lines."""
    lines = text.split("\n")
    found = [(at, match) for at, line in enumerate(lines) if (match := _OPTION.fullmatch(line.strip()))]
    letters = "".join(match[1] for _, match in found)
    if len(found) < 2 or letters != "ABCDEFGHIJKLMNOPQRSTUVWXYZ"[: len(found)]:
        return text, ()
    return "\n".join(lines[: found[0][0]]).strip(), tuple(match[2].strip() for _, match in found)


def _whole(item: Item) -> str:
    request = f"\n{lettered(item.choices)}\n{ONLY_LETTER}" if item.choices else ""
    return published_text(item, lambda one: one.question + request)


def _ours(item: Item) -> str:
    return plain_choice()(item) if item.choices else asked(item, item.question.strip())


BENCHMARKS = {
    "realworldqa": Benchmark(
        read,
        {
            "ours": Variant(_ours, "letter_or_exact"),
            "cambrian": Variant(
                lambda item: asked(item, _whole(item)),
                "realworldqa_cambrian",
                max_new_tokens=512,
                note="its script stops at an empty answer, which is wrong here",
            ),
            "lmms-eval": Variant(
                lambda item: asked(item, _whole(item).strip()), "realworldqa_lmms_eval", stop=LMMS_EVAL_STOP
            ),
            "vlmevalkit": Variant(
                vlmevalkit_choice,
                "vlmevalkit_option",
                max_new_tokens=VLMEVALKIT_TOKENS,
                note="for the TSV, in which all questions have options; no judge: what the rules leave open is wrong",
            ),
        },
        answer_format="short",
        questions=765,
    )
}
