"""Scores of answer files in which answers count in groups, against the toolkits' own (golden/grouped.json)."""

from __future__ import annotations

import random
from typing import Any

import pytest

from pivot_jax.eval.score import Rules, Score, score_rows
from tests.eval.benchmarks import golden_files

GOLDEN = golden_files.read("grouped")
TOOLKITS = {name: known for known, name in golden_files.TOOLKITS.items()}


def converted(benchmark: str, at: int, row: dict[str, Any]) -> dict[str, Any]:
    found = {"question_id": str(at), "answer": row["said"], "gt_answer": row["answer"]}
    if benchmark == "naturalbench":
        group, own = divmod(row["index"], 4)
        fields = {"question": own // 2, "image": own % 2}
        return found | {"category": row["type"], "unit": group, "fields": fields}
    found["category"] = row["category"]
    if benchmark in ("mme", "pope"):
        return found | {"unit": row["image"]}
    if benchmark == "hallusionbench":
        return found | {"unit": f"{row['subcategory']}_{row['set_id']}", "fields": row}
    return found


def scored(benchmark: str, toolkit: str) -> dict[str, float]:
    """Our numbers, from the rows in another order than the toolkit's."""
    rows = [converted(benchmark, at, row) for at, row in enumerate(GOLDEN["rows"][benchmark])]
    random.Random(0).shuffle(rows)
    found: Score = score_rows(benchmark, rows, Rules(TOOLKITS[toolkit]))
    return {name: one.value for name, one in found.intervals().items()}


# The toolkit's name of a number → ours, and by what ours is multiplied.
SAME = {
    ("mme", "lmms_eval"): {"mme_perception_score": ("perception", 1), "mme_cognition_score": ("cognition", 1)},
    ("mme", "vlmevalkit"): {"reasoning": ("cognition", 1)},
    ("mme", "cambrian"): {"Perception": ("perception", 1), "Cognition": ("cognition", 1)},
    ("pope", "lmms_eval"): {"f1_score": ("f1", 1)},
    ("pope", "vlmevalkit"): {
        "Overall Overall": ("f1", 100),
        "Overall acc": ("accuracy", 100),
        "Overall precision": ("precision", 100),
        "Overall recall": ("recall", 100),
    }
    | {f"{kind} Overall": (f"f1/{kind}", 100) for kind in ("adversarial", "popular", "random")}
    | {f"{kind} acc": (kind, 100) for kind in ("adversarial", "popular", "random")},
    ("hallusionbench", "lmms_eval"): {},
    ("hallusionbench", "vlmevalkit"): {name: (name, 100) for name in ("aAcc", "fAcc", "qAcc")},
    ("ocrbench", "lmms_eval"): {"of 1": ("points", 1 / 1000)},
    ("ocrbench", "vlmevalkit"): {
        "Text Recognition": ("text_recognition", 1),
        "Final Score": ("points", 1),
        "Final Score Norm": ("points", 1 / 10),
    },
} | {
    ("naturalbench", toolkit): {
        "Acc": ("accuracy", 1),
        "Q_Acc": ("question_accuracy", 1),
        "I_Acc": ("image_accuracy", 1),
        "G_Acc": ("group_accuracy", 1),
    }
    for toolkit in ("lmms_eval", "vlmevalkit")
}
# Numbers of a toolkit that we do not give: the share of correct answers that are yes; precision and recall of a kind.
LEFT_OUT = {("pope", "lmms_eval"): {"yes_ratio"}} | {
    ("pope", "vlmevalkit"): {
        f"{kind} {name}" for kind in ("adversarial", "popular", "random") for name in ("precision", "recall")
    }
}


@pytest.mark.parametrize(("benchmark", "toolkit"), SAME)
def test_scores_are_the_toolkit_s_own(benchmark: str, toolkit: str) -> None:
    theirs, ours, names = GOLDEN["scores"][toolkit][benchmark], scored(benchmark, toolkit), SAME[benchmark, toolkit]
    compared = set(theirs) - LEFT_OUT.get((benchmark, toolkit), set())
    named = {name: names.get(name, (name, 1)) for name in compared}
    assert {name: ours[own] * factor for name, (own, factor) in named.items()} == pytest.approx(
        {name: theirs[name] for name in compared}, abs=1e-9
    )
    assert set(names) <= compared


def test_cambrian_s_share_of_ocrbench_is_in_percent() -> None:
    theirs = GOLDEN["scores"]["cambrian"]["ocrbench"]
    ours = scored("ocrbench", "cambrian")
    assert ours.pop("accuracy") * 100 == pytest.approx(theirs["total_accuracy"], abs=1e-9)
    assert {name: 100 * one for name, one in ours.items()} == pytest.approx(
        {name: one for name, one in theirs.items() if name != "total_accuracy"}, abs=1e-9
    )


def test_toolkits_name_figures_differently() -> None:
    """The same answers by the same rule: VLMEvalKit has fewer figures, as those of both subcategories "ocr" are one."""
    rows = [converted("hallusionbench", at, row) for at, row in enumerate(GOLDEN["rows"]["hallusionbench"])]
    named, merged = (
        score_rows("hallusionbench", rows, Rules("vlmevalkit", aggregate=name)) for name in ("ours", "vlmevalkit")
    )
    assert named.value == merged.value
    assert named.secondary["fAcc"].value > merged.secondary["fAcc"].value
