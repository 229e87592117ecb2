"""Cambrian's own verdict on one answer: its NAME_test.py on a file of one line. "x" in the golden file is its crash."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tests.toolkits import scripts
from tests.toolkits.odd_answers import Gold

CHECKOUT = Path(os.environ.get("CAMBRIAN", ""))
if not (CHECKOUT / "eval" / "eval").is_dir():
    raise SystemExit("no Cambrian: set CAMBRIAN to a checkout of github.com/cambrian-mllm/cambrian")
ABOUT = {"toolkit": "Cambrian", "version": scripts.version(CHECKOUT)}
Scorer = Callable[[str, Gold], float]
WORK = Path(tempfile.mkdtemp(prefix="cambrian_"))
os.chdir(WORK)  # some scripts write beside themselves


def opened(name: str) -> dict[str, Any]:
    """The names of a scorer's script, its table of results kept in ``found`` instead of a CSV file."""
    file = CHECKOUT / "eval" / "eval" / name / f"{name}_test.py"
    sys.path.insert(0, str(file.parent))
    names = scripts.run(file, ["--answers_file", "none"])
    sys.path.pop(0)
    names["found"] = {}
    names["add_data_to_csv"] = lambda path, data: names["found"].update(data)
    names["print"] = lambda *rest: None
    frame = SimpleNamespace(to_excel=lambda *rest, **more: None)
    names["pd"] = SimpleNamespace(DataFrame=lambda rows: frame)  # MMBench's file for the server
    return names


def scorer(name: str, row: Callable[[str, Gold], dict[str, Any]], metric: str = "accuracy", **more: Any) -> Scorer:
    """A scorer by the script ``name`` on the line that ``row`` writes; percentages are divided by 100."""
    names = opened(name)
    file = WORK / f"{name}.jsonl"
    arguments = [str(file)] + ([] if name == "textvqa" else [str(WORK / "wrong" / "wrong.jsonl")])

    def scored(answer: str, gold: Gold) -> float:
        file.write_text(json.dumps({"answer": answer, "category": "x", "model_id": "m"} | row(answer, gold)) + "\n")
        names["found"].clear()
        names["compute_metrics"](*arguments, "none.csv", **more)
        found = names["found"][metric]
        value = found["accuracy"] if isinstance(found, dict) else found
        return value / 100 if name in PERCENT else value

    return scored


PERCENT = {"mme", "gqa", "ai2d", "chartqa", "ocrbench", "textvqa", "mmvp", "realworldqa", "pope", "mmstar"}


def letter(answer: str, gold: Gold) -> dict[str, Any]:
    return {"gt_answer": gold["answers"][0]}


def bracketed(answer: str, gold: Gold) -> dict[str, Any]:
    return {"gt_answer": f"({gold['answers'][0]})", "options": gold["choices"], "text_options": gold["choices"]}


def text(gold: Gold) -> str:
    """The text of the right option."""
    return gold["choices"]["ABCDEFGH".index(gold["answers"][0])]


SCORERS: dict[str, Scorer] = {
    "mme": scorer("mme", lambda a, g: letter(a, g) | {"category": "existence"}),
    "mmbench": scorer("mmbench_en", lambda a, g: letter(a, g) | {"prediction": a, "source_id": "s"}),
    "seed": scorer("seed", lambda a, g: letter(a, g) | {"category": 5}),
    "gqa": scorer("gqa", letter),
    "scienceqa": scorer("scienceqa", lambda a, g: letter(a, g) | {"text_answer": text(g), "type": True}),
    "mmmu": scorer("mmmu", lambda a, g: letter(a, g) | {"type": "multiple-choice"}),
    "mmmu_open": scorer(
        "mmmu", lambda a, g: {"gt_answer": g["answers"][0] if len(g["answers"]) == 1 else repr(g["answers"])}
    ),
    "mathvista": scorer(
        "mathvista",
        lambda a, g: {
            "gt_answer": "ABCDEFGH"[g["choices"].index(g["answers"][0])] if g.get("choices") else g["answers"][0],
            "type": g["kind"],
        },
    ),
    "ai2d": scorer("ai2d", lambda a, g: {"gt_answer": str("ABCD".index(g["answers"][0]))}),
    "chartqa": scorer("chartqa", letter),
    "ocrbench": scorer(
        "ocrbench",
        lambda a, g: {"gt_answer": g["answers"], "category": g["category"]},
        "total_accuracy",
        extra_penalization=False,
    ),
    "textvqa": scorer("textvqa", lambda a, g: {"gt_answer": g["answers"]}),
    "mmvp": scorer("mmvp", bracketed),
    "realworldqa": scorer("realworldqa", letter),
    "cv_bench": scorer("ade", bracketed),
    "cv_bench_3d": scorer("omni", bracketed),
    "pope": scorer("pope", letter),
    "blink": scorer("blink", bracketed),
    "mmstar": scorer("mmstar", letter),
}
SKIPPED = dict.fromkeys(
    ("hallusionbench", "naturalbench", "mme_realworld", "vl_rewardbench", "mathverse", "mathvision", "geometry3k"),
    "Cambrian has no such script",
) | {"docvqa": "its script writes a file for the server", "mm_math": "Cambrian has no such script"}


def _whole(name: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The script's results over a whole file."""
    names = opened(name)
    file = WORK / f"{name}_whole.jsonl"
    file.write_text("".join(json.dumps(row | {"model_id": "m"}) + "\n" for row in rows))
    names["compute_metrics"](str(file), str(WORK / "wrong" / "wrong.jsonl"), "none.csv")
    return dict(names["found"])


def aggregates(name: str, items: list[Any]) -> dict[str, Any] | None:
    """Cambrian's scores of a whole file, where they are compared; MMBench's groups are by index."""
    if name == "mme":
        found = _whole("mme", [letter("", i.gold) | {"answer": i.answer, "category": i.row["category"]} for i in items])
        return {key: round(found[key], 4) for key in ("Perception", "Cognition", "total_score")}
    if name == "mmbench":
        rows = [
            letter("", i.gold) | {"prediction": i.answer, "category": "x", "source_id": str(i.row["index"] % 1_000_000)}
            for i in items
        ]
        found = _whole("mmbench_en", rows)
        return {key: round(found[key], 6) for key in ("accuracy", "circular_accuracy", "circular_count")}
    return None
