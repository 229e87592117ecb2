"""Our scorers for ``compare_scorers``: reads lines of JSON, writes a line of JSON for each.

{"benchmark", "toolkit"} is answered by the name of the scorer of that variant, null where there is none;
{"scorer", "pairs": [[answer, gold], …], "part"} by a list of [score, guessed].
"""

from __future__ import annotations

import json
import sys
from typing import Any

from pivot_jax.eval.benchmarks.suite import BENCHMARKS
from pivot_jax.eval.scoring.scorers import Gold
from pivot_jax.eval.scoring.table import SCORERS
from tests.toolkits import odd_answers

# What our rules call the fields of a gold that the generated ones have under shorter names.
FIELDS = {"kind": "question_type", "type": "answer_type", "precision": "precision"}


def our_gold(fields: odd_answers.Gold, part: str) -> Gold:
    """A generated gold as our readers would give it for a row of that benchmark."""
    rest = {name: fields[key] for key, name in FIELDS.items() if key in fields}
    if part == "cv_bench_3d":
        rest["type"] = "3D"
    if part == "mmmu_open" and len(fields["answers"]) > 1:
        rest["published_answer"] = repr(fields["answers"])
    return Gold(tuple(fields["answers"]), tuple(fields.get("choices", ())), fields.get("category", ""), fields=rest)


def score(name: str, answer: str, gold: Gold) -> list[Any]:
    """Score and whether it was guessed; an error as text, as it is a difference to report."""
    try:
        found = SCORERS[name](answer, gold)
    except Exception as error:
        return [f"{type(error).__name__}: {error}", False]
    return [float(found), found.guessed]


def reply(asked: dict[str, Any]) -> Any:
    if "scorer" in asked:
        return [score(asked["scorer"], answer, our_gold(gold, asked["part"])) for answer, gold in asked["pairs"]]
    benchmark = BENCHMARKS.get(asked["benchmark"])
    variant = None if benchmark is None else benchmark.variants.get(asked["toolkit"])
    return None if variant is None else variant.scorer


if __name__ == "__main__":
    for line in sys.stdin:
        print(json.dumps(reply(json.loads(line))), flush=True)
