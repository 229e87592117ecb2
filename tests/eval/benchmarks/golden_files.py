"""What the toolkits themselves ask and score (golden/), against our variants of a benchmark."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from pivot_jax.eval.benchmarks import suite
from pivot_jax.eval.benchmarks.base import Item, Items
from pivot_jax.eval.score import Score
from pivot_jax.eval.scoring.scorers import Gold
from pivot_jax.eval.scoring.table import SCORERS

FOLDER = Path(__file__).parent / "golden"
TOOLKITS = {"lmms-eval": "lmms_eval", "vlmevalkit": "vlmevalkit", "cambrian": "cambrian", "llava": "llava"}
NOT_READ = ("?", "x", "g")  # the toolkit would ask a judge, its code fails, it guesses


@cache
def read(name: str) -> dict[str, Any]:
    return json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))


def check_prompts(
    benchmark: str, toolkit: str, items: Sequence[Item] | Items, golden: str = "", left_out: Collection[str] = ()
) -> None:
    """Asserts that every golden prompt of the benchmark is ours, character by character, with its limits.

    Args:
      items: of the published rows, in their order.
      golden: name in the golden file, where it is another one.
      left_out: positions of published rows that are no questions here, after all that are.
    """
    variant = suite.find(benchmark).variants[toolkit]
    recorded = dict(read(f"prompts_{TOOLKITS[toolkit]}")["benchmarks"][golden or benchmark])
    for at in left_out:
        del recorded[at]
    assert {at: variant.example(items[int(at)]).messages[-1].content for at in recorded} == {
        at: one["prompt"] for at, one in recorded.items()
    }
    assert len(recorded) == len(items)
    for one in recorded.values():
        assert list(variant.stop) == one["stop"]
        assert one["max_new_tokens"] in (variant.max_new_tokens, None)
        assert (variant.temperature, variant.top_p) == (one.get("temperature"), one.get("top_p", 1.0))


def differences(golden: str, toolkit: str, scorer: str) -> tuple[int, dict[tuple[str, ...], tuple[Any, float]]]:
    """Answers on which a scorer of ours and the toolkit differ.

    Returns:
      The number of verdicts that were compared, and (answer, *accepted answers) → (toolkit's verdict, ours). An answer
      that the toolkit does not read is expected to be wrong, as it is without a judge.
    """
    odd, judge = read("odd_answers"), SCORERS[scorer]
    found: dict[tuple[str, ...], tuple[Any, float]] = {}
    count = 0
    recorded = read(f"scores_{TOOLKITS[toolkit]}")["benchmarks"][golden]
    for gold, packed in zip(odd["golds"][golden], recorded, strict=True):
        for answer, verdict in zip((*odd["answers"], *gold["own"]), packed, strict=True):
            ours, count = judge(answer, gold_of(gold)), count + 1
            theirs = 0.0 if verdict in NOT_READ else float(verdict)
            if abs(theirs - ours) > 5e-5:  # scores between 0 and 1 have 4 decimals
                found[answer, *gold["answers"]] = verdict, float(ours)
    return count, found


def check_real_file(file: str, toolkit: str, benchmark: str, score: Score) -> None:
    """Asserts that a published answer file has the score that the toolkit gives it, by counts of its verdicts."""
    recorded = read("real_files")["files"][file][TOOLKITS[toolkit]][benchmark]
    assert (len(score.scores), int((score.scores == 1).sum())) == (recorded["rows"], recorded["right"])
    assert score.scores.sum() == pytest.approx(recorded.get("sum", recorded["right"]), abs=1e-4)
    assert round(score.unread * len(score.scores)) == recorded.get("unread", 0)


def gold_of(gold: Mapping[str, Any]) -> Gold:
    """A gold of the golden file."""
    rest = {name: value for name, value in gold.items() if name not in ("answers", "choices", "category", "own")}
    return Gold(tuple(gold["answers"]), tuple(gold.get("choices", ())), gold.get("category", ""), fields=rest)
