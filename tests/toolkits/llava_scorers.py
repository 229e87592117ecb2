"""LLaVA's own verdict on one answer: its scripts for POPE, ScienceQA and TextVQA."""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from tests.toolkits import scripts
from tests.toolkits.odd_answers import Gold

CHECKOUT = Path(os.environ.get("LLAVA", ""))
if not (CHECKOUT / "llava" / "eval").is_dir():
    raise SystemExit("no LLaVA: set LLAVA to a checkout of github.com/haotian-liu/LLaVA")
ABOUT = {"toolkit": "LLaVA", "version": scripts.version(CHECKOUT)}
Scorer = Callable[[str, Gold], float]
scripts.open_package("llava", CHECKOUT)
EVAL = CHECKOUT / "llava" / "eval"
WORK = Path(tempfile.mkdtemp(prefix="llava_"))
sys.path.insert(0, str(CHECKOUT))


def pope(answer: str, gold: Gold) -> float:
    """The script writes its reading over the answer; the scores after it need more than one answer."""
    names = scripts.run(EVAL / "eval_pope.py", main=False)
    labels = WORK / "labels.json"
    labels.write_text('{"label": "yes"}\n')
    row = {"text": answer}
    with contextlib.suppress(ZeroDivisionError), contextlib.redirect_stdout(io.StringIO()):
        names["eval_pope"]([row], str(labels))
    return float(row["text"] == gold["answers"][0].lower())


def scienceqa(answer: str, gold: Gold) -> float:
    """The whole script on one question with an image."""
    target = "ABCDEFGH".index(gold["answers"][0])
    (WORK / "pid_splits.json").write_text('{"test": ["1"]}')
    (WORK / "problems.json").write_text(json.dumps({"1": {"choices": gold["choices"], "answer": target}}))
    (WORK / "in.jsonl").write_text(json.dumps({"question_id": "1", "text": answer, "prompt": "<image>"}) + "\n")
    options = ["--base-dir", str(WORK), "--result-file", str(WORK / "in.jsonl")]
    options += ["--output-file", str(WORK / "out.json"), "--output-result", str(WORK / "result.json")]
    with contextlib.redirect_stdout(io.StringIO()):
        scripts.run(EVAL / "eval_science_qa.py", options, to_the_end=True)
    return json.loads((WORK / "result.json").read_text())["acc"] / 100


def textvqa(answer: str, gold: Gold) -> float:
    from llava.eval.m4c_evaluator import TextVQAAccuracyEvaluator

    row = {"pred_answer": answer, "gt_answers": gold["answers"]}
    return float(TextVQAAccuracyEvaluator().eval_pred_list([row]))


SCORERS: dict[str, Scorer] = {"pope": pope, "scienceqa": scienceqa, "textvqa": textvqa}
SKIPPED = {
    "mme": "scored by the benchmark's own tool on files",
    "mmbench": "scored by the benchmark's server",
    "seed": "scored by the benchmark's server",
    "gqa": "scored by the data set's own script, which LLaVA does not hold",
}
