"""MathVista (Lu et al. 2024): 1,000 questions of mathematics about images, multiple choice or a short answer; testmini.

``Item.text`` is the published query: a hint on the form of the answer, the question with its unit, and the options.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from pivot_jax.errors import RowError
from pivot_jax.eval.benchmarks.base import Benchmark, Item, Items, Variant
from pivot_jax.eval.benchmarks.cells import shown
from pivot_jax.eval.benchmarks.choice_prompts import bracketed, published_text
from pivot_jax.eval.benchmarks.prompts import LETTER, WORD, asked, lettered
from pivot_jax.eval.benchmarks.published import published
from pivot_jax.eval.benchmarks.row import Row
from pivot_jax.eval.benchmarks.toolkits import LMMS_EVAL_STOP, VLMEVALKIT_TOKENS
from pivot_jax.eval.scoring.aggregate import MEAN

KINDS = ("multi_choice", "free_form")
REASONING = "\nFirst show your reasoning process and then give the final answer."
_QUERY = re.compile(r"^(?:Hint: .*?\n)?Question: (.*?)(?:\nChoices:\n.*)?$", re.DOTALL)
LMMS_EVAL_TOKENS = 16384

# lmms-eval's names of a form of answer: (answer type, decimals) → in its format prompt, in its others.
_FORMS = {
    ("integer", 0): ("a single integer number", "an integer answer", "1, 2, 3"),
    ("float", 1): (
        "a single floating-point number with one decimal place",
        "a floating-point number with one decimal place",
        "1.2, 1.3, 1.4",
    ),
    ("float", 2): (
        "a single floating-point number with two decimal places",
        "a floating-point number with two decimal places",
        "1.23, 1.34, 1.45",
    ),
    ("list", 0): ("a Python list", "a Python list as an answer", "[1, 2, 3], [1.2, 1.3, 1.4]"),
}
_ANY_FORM = ("a single number", "a number", "1, 2, 3")


def read(path: str | Path) -> Items:
    """Questions of AI4Math/MathVista (split testmini), or of VLMEvalKit's MathVista_MINI.tsv.

    The category is the task. Fields: question_type, answer_type, precision and unit (where there are some), skills.
    """
    return published(path, "MathVista", hf=_hub, tsv=_tsv, split="testmini", tsv_file="MathVista_MINI", id_key="pid")


def _hub(row: Row) -> Item:
    about = row.values.get("metadata")
    about = about if isinstance(about, dict) else {}
    images = row.images("decoded_image" if row.values.get("decoded_image") is not None else "image")
    item = _item(row, row.options("choices"), images, row.text("query"))
    fields = {**item.fields, **({"skills": list(about["skills"])} if about.get("skills") else {})}
    return replace(item, question=row.text("question"), category=str(about.get("task", "")), fields=fields)


def _tsv(row: Row) -> Item:
    """VLMEvalKit's column ``question`` is the query."""
    query = row.text("question")
    item = _item(row, row.options("choices"), row.images(), query)
    found = _QUERY.match(query)
    question = found[1] if found else query
    if unit := item.fields.get("unit"):
        question = question.removesuffix(f" (Unit: {unit})")
    return replace(item, question=question, category=row.optional("task"))


def _item(row: Row, choices: tuple[str, ...], images: tuple[Any, ...], query: str) -> Item:
    kind = row.text("question_type")
    if kind not in KINDS:
        raise RowError(row.name, f"column 'question_type' is {shown(kind)}, not one of {', '.join(KINDS)}; correct it")
    if (kind == KINDS[0]) != bool(choices):
        raise RowError(row.name, f"a question of type '{kind}' with {len(choices)} options; correct one of the two")
    fields = row.fields("question_type", "answer_type", "unit", "precision")
    if isinstance(fields.get("precision"), str):
        fields["precision"] = _precision(fields["precision"], row)
    answer = row.letter(choices, "text") if choices else row.text("answer")
    return Item(row.id, "", images, choices=choices, answers=(answer,), fields=fields, text=query)


def _precision(text: str, row: Row) -> float:
    try:
        return float(text)
    except ValueError:
        raise RowError(row.name, f"column 'precision' is {shown(text)}, not a number of decimals; correct it") from None


def _query(item: Item) -> str:
    """The published query; with the options as they are now where they were permuted."""

    def written(one: Item) -> str:
        return f"Question: {one.question}{_unit(one)}\nChoices:{bracketed(one)}"

    return published_text(item, written)


def _unit(item: Item) -> str:
    unit = item.fields.get("unit")
    return f" (Unit: {unit})" if unit else ""


def _form(item: Item) -> tuple[str, str, str]:
    kind = str(item.fields.get("answer_type"))
    return _FORMS.get((kind, int(float(item.fields.get("precision") or 0)) if kind == "float" else 0), _ANY_FORM)


def _cambrian(item: Item) -> str:
    return asked(item, _query(item) + (REASONING if item.choices else WORD))


def _lmms_eval_format(item: Item) -> str:
    request = LETTER if item.choices else f"\nAnswer the question using {_form(item)[0]}."
    return asked(item, f"{item.question}{_unit(item)}{lettered(item.choices)}{request}".strip())


def _lmms_eval_hint(tail: str = "") -> Callable[[Item], str]:
    def prompt(item: Item) -> str:
        _, form, such = _form(item)
        hint = f"requiring {form} and provide the final {'list' if 'list' in form else 'value'}, e.g., {such}"
        if item.choices:
            hint = "and provide the correct option letter, e.g., A, B, C, D"
        options = f"\nChoices:{bracketed(item)}" if item.choices else ""
        text = f"Question: {item.question}{_unit(item)}{options}\nHint: Please answer the question {hint}, at the end."
        return asked(item, text + tail)

    return prompt


def _lmms_eval(prompt: Callable[[Item], str]) -> Variant:
    return Variant(
        prompt,
        "mathvista_lmms_eval",
        MEAN,
        LMMS_EVAL_TOKENS,
        LMMS_EVAL_STOP,
        note="without its judge only a bare option text or number is read. With it too, no float answer is right, as "
        "the hub's precision is a float (1.0), with which its rounding fails",
    )


def _task(prompt: Callable[[Item], str]) -> Benchmark:
    ours = Variant(prompt, "mathvista", MEAN, 512)
    return Benchmark(
        read,
        {"ours": ours, "lmms-eval": _lmms_eval(prompt)},
        answer_format="short",
        option_form="letter",
        questions=1000,
    )


BENCHMARKS = {
    "mathvista": Benchmark(
        read,
        {
            "ours": Variant(lambda item: asked(item, _query(item)), "mathvista", MEAN, 512),
            "cambrian": Variant(
                _cambrian,
                "mathvista_cambrian",
                MEAN,
                512,
                note="it misses the type of multiple-choice questions, so only a bare letter is right there",
            ),
            "lmms-eval": _lmms_eval(_lmms_eval_format),
            "vlmevalkit": Variant(
                lambda item: asked(item, _query(item)),
                "mathvista_vlmevalkit",
                MEAN,
                VLMEVALKIT_TOKENS,
                note="no judge, which it demands: what its rules leave open is wrong",
            ),
        },
        answer_format="short",
        option_form="letter",
        questions=1000,
    ),
    "mathvista-cot": _task(_lmms_eval_hint()),
    "mathvista-solution": _task(_lmms_eval_hint("\nSolution:")),
}
