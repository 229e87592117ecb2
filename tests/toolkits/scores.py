"""Write golden/scores_TOOLKIT.json: a toolkit's verdicts on the odd answers, and golden/odd_answers.json with these.

    python -m tests.toolkits.scores lmms_eval | vlmevalkit | cambrian | llava

Each gold is scored on the shared answers, then on its own. Its verdicts are one character an answer: 1 right, 0 wrong,
? not read (the toolkit would ask a judge; without one it is wrong), g not read and guessed at random, x the toolkit
raises an error. Scores between 0 and 1 are a list.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable, Mapping
from typing import Any

from tests.toolkits import golden, odd_answers

COUNT, OWN = 150, 50
Verdict = float | str


def verdict(scorer: Callable[[str, odd_answers.Gold], Verdict], answer: str, gold: odd_answers.Gold) -> Verdict:
    """A toolkit's verdict, "x" where its function raises: any error, as these are other people's functions."""
    try:
        return scorer(answer, gold)
    except Exception:
        return "x"


def packed(verdicts: list[Verdict]) -> str | list[Verdict]:
    """One character a verdict where all are right, wrong or a sign; else the scores with 4 decimals."""
    if all(found in (0, 1) or isinstance(found, str) for found in verdicts):
        return "".join(found if isinstance(found, str) else str(int(found)) for found in verdicts)
    return [found if isinstance(found, str) else round(found, 4) for found in verdicts]


def table(scorers: Mapping[str, Any]) -> dict[str, list[str | list[Verdict]]]:
    """Benchmark → the packed verdicts of each gold."""
    shared = odd_answers.answers(COUNT)
    found = {}
    for name, scorer in scorers.items():
        found[name] = [
            packed([verdict(scorer, answer, gold) for answer in (*shared, *odd_answers.own(gold, OWN))])
            for gold in odd_answers.GOLDS[name]
        ]
    return found


def main(toolkit: str) -> None:
    module = importlib.import_module(f"tests.toolkits.{toolkit}_scorers")
    golds = {
        name: [gold | {"own": odd_answers.own(gold, OWN)} for gold in listed]
        for name, listed in odd_answers.GOLDS.items()
    }
    text = json.dumps({"answers": odd_answers.answers(COUNT), "golds": golds}, ensure_ascii=False, indent=0)
    golden.FOLDER.mkdir(parents=True, exist_ok=True)
    (golden.FOLDER / "odd_answers.json").write_text(text + "\n", encoding="utf-8")
    path = golden.FOLDER / f"scores_{toolkit}.json"
    golden.write(path, module.ABOUT, table(module.SCORERS), module.SKIPPED)


if __name__ == "__main__":
    main(sys.argv[1])
