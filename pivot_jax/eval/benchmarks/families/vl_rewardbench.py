"""VL-RewardBench (Li et al. 2025): which of two answers to a question about an image is better?

The two answers change places where the sum of their lengths is odd, in both toolkits: answer A is the one shown first.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from pivot_jax.errors import RowError
from pivot_jax.eval.benchmarks.base import Benchmark, Item, Items, Variant
from pivot_jax.eval.benchmarks.cells import literal_list, shown
from pivot_jax.eval.benchmarks.prompts import asked
from pivot_jax.eval.benchmarks.published import published
from pivot_jax.eval.benchmarks.row import Row
from pivot_jax.eval.benchmarks.toolkits import LMMS_EVAL_STOP, VLMEVALKIT_TOKENS
from pivot_jax.eval.scoring.aggregate import macro

GROUPS = {
    "mathverse": "reasoning",
    "mmmu": "reasoning",
    "hallucination": "hallucination",
    "rlhf": "hallucination",
    "rlaif": "hallucination",
    "wildvision": "general",
    "vlfeedback": "general",
}
# The benchmark's own text. The toolkits' copies differ in blanks and line breaks.
_TASK = "You are a highly capable multimodal AI assistant tasked with evaluating answers to visual questions."
_COMPARE = (
    "Please analyze the following image and question, then determine which of the two provided answers is better."
)
_CRITERIA = """\
Please evaluate both answers based on the following criteria:
1. Accuracy: How well does the answer align with the visual information in the image?
2. Completeness: Does the answer fully address all aspects of the question?
3. Clarity: Is the answer easy to understand and well-articulated?
4. Relevance: Does the answer directly relate to the question and the image?

After your evaluation, please:
1. Explain your reasoning for each criterion.
2. Provide an overall judgment on which answer is better (Answer 1 or Answer 2)."""
_EXAMPLE = "For example: Overall Judgment: Answer X is better."
_FORM = (
    "Your response should be structured and detailed, demonstrating your understanding of both the visual and textual "
    "elements of the task."
)


def read(path: str | Path) -> Items:
    """Questions of MMInstruction/VL-RewardBench (split test) or of VLMEvalKit's VL-RewardBench.tsv.

    The category is the group: general, hallucination, reasoning.
    """
    return published(
        path,
        "VL-RewardBench",
        hf=partial(_item, question="query", ranking="human_ranking"),
        tsv=partial(_item, question="question", ranking="answer"),
        split="test",
        tsv_file="VL-RewardBench",
        id_key="id",
        repeated=True,
    )


def _item(row: Row, question: str, ranking: str) -> Item:
    responses = row.options("response")
    ranks = row.values.get(ranking)
    ranks = literal_list(ranks) if isinstance(ranks, str) else ranks
    if len(responses) != 2:
        raise RowError(row.name, f"column 'response' has {len(responses)} answers, not two")
    if not isinstance(ranks, list | tuple) or sorted(ranks, key=str) != [0, 1]:
        raise RowError(row.name, f"column '{ranking}' is {shown(ranks)}, not the ranks [0, 1] or [1, 0] of two answers")
    swapped = sum(map(len, responses)) % 2 == 1
    first_is_better = (list(ranks) == [0, 1]) != swapped
    return Item(
        row.id,
        row.text(question),
        row.images(),
        choices=responses[::-1] if swapped else responses,
        answers=("A" if first_is_better else "B",),
        category=row.optional("category") or group_of(row.optional("id") or row.id),
    )


def group_of(name: str) -> str:
    """The group of a question by the beginning of its id (``RLAIF-V-12``, ``mathverse_3``); "general" by default."""
    return GROUPS.get(name.partition("-")[0].partition("_")[0].lower(), "general")


def _prompt(item: Item, head: str, between: str) -> str:
    first, second = item.choices
    return asked(
        item,
        f"{head}\n\nQuestion: {item.question}\n\nAnswer 1: {first}\n\nAnswer 2: {second}\n\n"
        f"{_CRITERIA}{between}{_EXAMPLE}\n\n{_FORM}",
    )


_lmms_eval = partial(_prompt, head=f" {_TASK} {_COMPARE}", between=" ")
_vlmevalkit = partial(_prompt, head=f"{_TASK}\n{_COMPARE}", between="")
_ours = partial(_prompt, head=f"{_TASK} {_COMPARE}", between=" ")
_by_group: dict[str, Any] = {"aggregate": macro()}

BENCHMARKS = {
    "vl-rewardbench": Benchmark(
        read,
        {
            "ours": Variant(_ours, "judgment", max_new_tokens=1024, **_by_group),
            "lmms-eval": Variant(
                _lmms_eval,
                "judgment_lmms_eval",
                max_new_tokens=1024,
                stop=LMMS_EVAL_STOP,
                temperature=1.0,
                note="it asks gpt-4o-mini where its pattern finds nothing; here its guess, which it makes where that "
                "fails too, follows at once",
                **_by_group,
            ),
            "vlmevalkit": Variant(
                _vlmevalkit,
                "judgment",
                max_new_tokens=VLMEVALKIT_TOKENS,
                note="a judge reads every answer there; here our own rule does",
                **_by_group,
            ),
        },
        answer_format="free",
        questions=1250,
    )
}
