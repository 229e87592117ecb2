"""Geometry3K (Lu et al. 2021): 601 test problems of plane geometry; a short answer, or one of four choices.

``geometry3k`` is the form that EasyR1 trains and validates on (hiyouga/geometry3k): its prompt, and the answer in a
box. ``geometry3k-choices`` is lmms-eval's (Yang130/geometry3k_4choices_mixed).
"""

from __future__ import annotations

from pathlib import Path

from pivot_jax.eval.benchmarks.base import Benchmark, Item, Items, Variant
from pivot_jax.eval.benchmarks.choice_prompts import plain_choice
from pivot_jax.eval.benchmarks.prompts import asked
from pivot_jax.eval.benchmarks.published import published
from pivot_jax.eval.benchmarks.row import Row
from pivot_jax.eval.benchmarks.toolkits import LMMS_EVAL_STOP
from pivot_jax.eval.scoring.aggregate import MEAN

EASYR1 = (
    " You FIRST think about the reasoning process as an internal monologue and then provide the final answer. The "
    "reasoning process MUST BE enclosed within <think> </think> tags. The final answer MUST BE put in \\boxed{}."
)
LMMS_EVAL_TOKENS = 1024


def read(path: str | Path) -> Items:
    """Problems of hiyouga/geometry3k (split test): images, problem with ``<image>``, answer."""
    return published(path, "Geometry3K", hf=_problem, tsv=None, split="test")


def read_choices(path: str | Path) -> Items:
    """Problems of Yang130/geometry3k_4choices_mixed (split test), or rows with image, question, choices, answer.

    The second is the form of InterGPS's annotation: the answer is a letter.
    """
    return published(path, "Geometry3K with choices", hf=_choices, tsv=None, split="test", id_key="id")


def _problem(row: Row) -> Item:
    return Item(row.id, row.text("problem"), row.images("images"), answers=(row.text("answer"),))


def _choices(row: Row) -> Item:
    choices = row.options("choices")
    hub = "ground_truth" in row.values
    return Item(
        row.id,
        row.text("problem" if hub else "question"),
        row.images("images" if hub else "image"),
        choices=choices,
        answers=(row.letter(choices, "letter", "ground_truth" if hub else "answer"),),
        category=row.optional("problem_type"),
    )


BENCHMARKS = {
    "geometry3k": Benchmark(
        read,
        {
            "ours": Variant(
                lambda item: asked(item, item.question.strip() + EASYR1),
                "boxed_formula",
                MEAN,
                2048,
                note="EasyR1's prompt and protocol; it compares boxes by mathruler, and we by the rules of reward math",
            )
        },
        answer_format="short",
        questions=601,
    ),
    "geometry3k-choices": Benchmark(
        read_choices,
        {
            "ours": Variant(plain_choice(), "strict_letter"),
            "lmms-eval": Variant(plain_choice(), "geometry3k_lmms_eval", MEAN, LMMS_EVAL_TOKENS, LMMS_EVAL_STOP),
        },
        answer_format="letter",
        option_form="letter",
    ),
}
