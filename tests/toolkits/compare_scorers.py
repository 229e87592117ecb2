"""Our scorers against the toolkits' own functions, live: 2,000 odd answers each, and the published answer files.

    python -m tests.toolkits.compare_scorers lmms_eval | vlmevalkit | cambrian | llava [BENCHMARK …]

Runs in the toolkit's environment; our scorers run in this project's, named by $PIVOT_PYTHON, and answer through a pipe,
as neither environment holds the other's packages. Prints a line a scorer and every difference that ``EXPLAINED`` does
not name, and exits with 1 where there is one.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from typing import Any

from tests.toolkits import golden, odd_answers, real_files, scores

# Our scorer for a toolkit's benchmark, (toolkit, benchmark) → name, where it is not the one of the benchmark's variant
# for that toolkit.
SCORER_NAMES: dict[tuple[str, str], str] = {}
# Parts of a benchmark that the golden files keep apart.
PART_OF = {"mmmu_open": "mmmu", "naturalbench_choice": "naturalbench", "cv_bench_3d": "cv_bench"}
# (toolkit, benchmark, answer) → why ours differs on purpose.
EXPLAINED: dict[tuple[str, str, str], str] = {}
TOOLKITS = {"lmms_eval": "lmms-eval", "vlmevalkit": "vlmevalkit", "cambrian": "cambrian", "llava": "llava"}
COUNT = 2000
TOLERANCE = 1e-4


class Ours:
    """Our scorers in their own process: a line of JSON there, a line of JSON back."""

    def __init__(self) -> None:
        python = os.environ.get("PIVOT_PYTHON", str(golden.ROOT / ".venv" / "bin" / "python"))
        self.process = subprocess.Popen(
            [python, "-m", "tests.toolkits.our_scores"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=golden.ROOT,
            env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
            text=True,
        )

    def ask(self, asked: dict[str, Any]) -> Any:
        """The reply to one line; see ``our_scores``."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps(asked) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit("our scorers' process ended; its message is above")
        return json.loads(line)


@cache
def real_items() -> tuple[real_files.Item, ...]:
    return tuple(item for load in real_files.FILES.values() for item in load())


def cases(benchmark: str) -> Iterator[tuple[str, odd_answers.Gold]]:
    """Generated answers, shared ones and each gold's own, then the answers of the published files."""
    golds = odd_answers.GOLDS[benchmark]
    count = COUNT // len(golds)
    for gold in golds:
        for answer in (*odd_answers.answers(count // 2, 1), *odd_answers.own(gold, count - count // 2, 1)):
            yield answer, gold
    yield from ((item.answer, item.gold) for item in real_items() if item.benchmark == benchmark)


def agrees(theirs: float | str, ours: float | str, guessed: bool) -> bool:
    """An answer that the toolkit does not read or fails on must be wrong here, without an error; a guess is a guess."""
    if isinstance(ours, str):
        return False
    if theirs == "g":
        return guessed or ours == 0
    expected = 0.0 if isinstance(theirs, str) else theirs
    return not guessed and abs(ours - expected) <= TOLERANCE


def compare(toolkit: str, benchmark: str, name: str, theirs: Any, ours: Ours) -> int:
    """Prints how many answers agree, and the first differences; returns the number of unexplained ones."""
    pairs = list(cases(benchmark))
    explained, different = 0, []
    replies = ours.ask({"scorer": name, "pairs": pairs, "part": benchmark})
    for (answer, gold), (score, guessed) in zip(pairs, replies, strict=True):
        verdict = scores.verdict(theirs, answer, gold)
        if agrees(verdict, score, guessed):
            continue
        if (toolkit, benchmark, answer) in EXPLAINED:
            explained += 1
        else:
            different.append((answer, gold, verdict, score))
    counts = f"{len(pairs)} answers, {len(different)} differ, {explained} explained"
    print(f"{toolkit} {benchmark} ({name}): {counts}", flush=True)
    for answer, gold, verdict, score in different[:20]:
        print(f"  {answer!r} with {gold}: the toolkit says {verdict}, ours {score}")
    return len(different)


def main(toolkit: str, chosen: list[str]) -> None:
    module = importlib.import_module(f"tests.toolkits.{toolkit}_scorers")
    ours = Ours()
    different, compared, left = 0, 0, []
    for benchmark, scorer in module.SCORERS.items():
        if chosen and benchmark not in chosen:
            continue
        asked = {"benchmark": PART_OF.get(benchmark, benchmark), "toolkit": TOOLKITS[toolkit]}
        name = SCORER_NAMES.get((toolkit, benchmark)) or ours.ask(asked)
        if name is None:
            left.append(benchmark)
        else:
            different, compared = different + compare(toolkit, benchmark, name, scorer, ours), compared + 1
    print(f"{toolkit}: {compared} scorers compared; without a variant of ours: {', '.join(left) or 'none'}")
    raise SystemExit(bool(different))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
