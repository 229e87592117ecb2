"""VLMEvalKit's own verdict on one answer without a judge: 0 to 1, or "?" where its rules do not read the answer.

Without a judge (``exact_matching``) an answer that is not read counts as wrong in every data set here.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import pandas

from tests.toolkits import vlmevalkit
from tests.toolkits.odd_answers import Gold

ABOUT = vlmevalkit.open_package()
Verdict = float | str
Scorer = Callable[[str, Gold], Verdict]


def module(name: str) -> Any:
    return importlib.import_module(f"vlmeval.dataset.{name}")


def _item(answer: str, gold: Gold) -> dict[str, Any]:
    return dict(zip("ABCDEFGHI", gold["choices"], strict=False)) | {
        "prediction": answer,
        "question": "Which?",
        "GT": gold["answers"][0],
    }


def choice(answer: str, gold: Gold) -> Verdict:
    """All sets of options (``exact_matching``): "?" where neither a letter nor one option's text is found."""
    rules = module("utils.multiple_choice")
    item = _item(answer, gold)
    if not rules.prefetch_answer(dict(item)):
        return "?"
    return float(rules.eval_vanilla(None, item)["hit"])


def mmmu_open(answer: str, gold: Gold) -> Verdict:
    """An open question of MMMU becomes "A: the gold, B: Other Answers"; several golds are one text."""
    rules = module("utils.multiple_choice")
    golds = gold["answers"]
    text = golds[0] if len(golds) == 1 else repr(golds)
    frame = pandas.DataFrame([{"A": None, "B": None, "answer": text, "question": "Which?", "prediction": answer}])
    item = dict(rules.MMMU_preproc(frame).iloc[0]) | {"GT": "A"}
    if not rules.prefetch_answer(dict(item)):
        return "?"
    return float(rules.eval_vanilla(None, item)["hit"])


def yes_no(answer: str, gold: Gold) -> Verdict:
    """MME, POPE, HallusionBench: exactly one of the words yes and no."""
    found = module("utils.yorn").YOrN_Extraction(answer)
    return "?" if found == "Unknown" else float(found == gold["answers"][0])


def _vqa(called: str, method: str) -> Scorer:
    def scored(answer: str, gold: Gold) -> Verdict:
        rules = module("utils.vqa_eval")
        golds = gold["answers"]
        line = {"answer": repr(golds) if called != "GQA" else golds[0], "prediction": answer}
        return float(rules.hit_calculate([rules.process_line(line, method=method)], called)[0])

    return scored


def ocrbench(answer: str, gold: Gold) -> Verdict:
    """Its evaluation of a file of this one row."""
    vqa = module("image_vqa")
    row = pandas.DataFrame([{"prediction": answer, "answer": repr(gold["answers"]), "category": gold["category"]}])
    before = vqa.load, vqa.dump, vqa.tqdm
    vqa.load, vqa.dump, vqa.tqdm = lambda file: row, lambda *rest: None, lambda listed: listed
    try:
        return float(vqa.OCRBench.evaluate("answers.xlsx")["Final Score"])
    finally:
        vqa.load, vqa.dump, vqa.tqdm = before


def _prefetched(rules: Any, line: dict[str, Any]) -> Verdict:
    found = rules.post_check(line, prefetch=True)
    return float(rules.post_check(line | {"res": found}, prefetch=False)) if found else "?"


def mathvista(answer: str, gold: Gold) -> Verdict:
    choices = gold.get("choices", [])
    line = {
        "answer": gold["answers"][0],
        "answer_option": "ABCDEFGH"[choices.index(gold["answers"][0])] if choices else "",
        "choices": repr(choices),
        "question_type": gold["kind"],
        "answer_type": gold["type"],
        "prediction": answer,
    }
    return _prefetched(module("utils.mathvista"), line)


def mathvision(answer: str, gold: Gold) -> Verdict:
    line = {"answer": gold["answers"][0], "choices": repr(gold["choices"]), "prediction": answer}
    return _prefetched(module("utils.mathv"), line)


def mme_realworld(answer: str, gold: Gold) -> Verdict:
    """Its evaluation of a file of this one row; "?" where no letter is found."""
    mcq = module("image_mcq")
    found = module("utils.multiple_choice").extract_characters_regex(_inner(mcq, answer))
    return "?" if found == "" else float(found == gold["answers"][0])


def _inner(mcq: Any, answer: str) -> str:
    """What that evaluation takes for the answer: the upper-cased text between answer tags, where there are some."""
    match = mcq.re.search(r"<answer>(.*?)</answer>", answer, mcq.re.DOTALL)
    return match.group(1).strip().upper() if match else answer


def naturalbench(answer: str, gold: Gold) -> Verdict:
    kind = "multiple_choice" if gold.get("choices") else "yes_no"
    found = module("utils.naturalbench").extract_answer(answer, kind)
    return "?" if found == -1 else float(found == (gold["answers"][0] in ("Yes", "A")))


def mm_math(answer: str, gold: Gold) -> Verdict:
    judge = module("mmmath").AutoScoringJudge()
    return float(bool(judge.judge(expression1=gold["answers"][0], expression2=answer)))


SCORERS: dict[str, Scorer] = dict.fromkeys(
    ("mmbench", "seed", "scienceqa", "mmmu", "ai2d", "mmvp", "cv_bench", "cv_bench_3d", "blink", "mmstar"), choice
) | {
    "mme": yes_no,
    "pope": yes_no,
    "hallusionbench": yes_no,
    "mmmu_open": mmmu_open,
    "gqa": _vqa("GQA", "accuracy"),
    "chartqa": _vqa("ChartQA", "relaxed_accuracy"),
    "textvqa": _vqa("TextVQA", "vqa_score"),
    "docvqa": _vqa("DocVQA", "anls"),
    "ocrbench": ocrbench,
    "mathvista": mathvista,
    "mathvision": mathvision,
    "mme_realworld": mme_realworld,
    "naturalbench": naturalbench,
    "naturalbench_choice": naturalbench,
    "mm_math": mm_math,
}
SKIPPED = {
    "realworldqa": "as every set of options; its rows hold options where the hub's hold a text",
    "vl_rewardbench": "a judge reads every answer",
    "mathverse": "a judge reads and scores every answer",
    "geometry3k": "VLMEvalKit has no such data set",
    "coco_captions": "scored over the whole file",
    "detailcaps": "VLMEvalKit has no such data set",
}
