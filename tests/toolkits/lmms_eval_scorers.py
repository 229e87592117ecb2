"""lmms-eval's own verdict on one answer: a number from 0 to 1, "?" where it would ask a judge, "g" where it guesses."""

from __future__ import annotations

import importlib
import random
from collections.abc import Callable
from typing import Any

import pandas
from lmms_eval.api import metrics

from tests.toolkits import lmms_eval_tasks  # sets the environment that the tasks need
from tests.toolkits.odd_answers import Gold

ABOUT = lmms_eval_tasks.ABOUT
Verdict = float | str
Scorer = Callable[[str, Gold], Verdict]


class Judge(Exception):
    """The toolkit asks a judge model."""


def _ask(*rest: Any, **more: Any) -> Any:
    raise Judge


def tasks(name: str) -> Any:
    return importlib.import_module(f"lmms_eval.tasks.{name}")


def letters(gold: Gold) -> list[str]:
    return [chr(65 + at) for at in range(len(gold["choices"]))]


def _exact(answer: str, target: str) -> float:
    """The metric of tasks that name exact_match with case and punctuation ignored."""
    found = metrics.exact_match_hf_evaluate(
        predictions=[answer], references=[target], ignore_case=True, ignore_punctuation=True
    )
    return float(found["exact_match"])


def mme(answer: str, gold: Gold) -> Verdict:
    doc = {"answer": gold["answers"][0], "category": "existence", "question_id": "1"}
    return tasks("mme.utils").mme_process_results(doc, [answer])["mme_perception_score"]["score"]


def mmbench(answer: str, gold: Gold) -> Verdict:
    """The static evaluation; a missing option is the text "nan" there, as its task hands it on."""
    texts = dict.fromkeys("ABCDE", "nan") | dict(zip("ABCDE", gold["choices"], strict=False))
    row = pandas.DataFrame([{"index": 1, "prediction": answer.strip(), "answer": gold["answers"][0]} | texts])
    evaluator = tasks("mmbench.en_utils").mmbench_evaluator
    return float(evaluator.eval_sub_data(row, {1: gold["answers"][0]}, static_only=True))


def seed(answer: str, gold: Gold) -> Verdict:
    module = tasks("seedbench.utils")
    doc = {"answer": gold["answers"][0], "data_type": "image", "question_id": "1"}
    return module.seed_aggregation_result([module.seed_process_result(doc, [answer])["seed_image"]])


def gqa(answer: str, gold: Gold) -> Verdict:
    return _exact(answer, gold["answers"][0])


def scienceqa(answer: str, gold: Gold) -> Verdict:
    doc = {"choices": gold["choices"], "answer": letters(gold).index(gold["answers"][0])}
    return tasks("scienceqa.utils").sqa_process_results(doc, [answer])["exact_match"]


def mmmu(answer: str, gold: Gold) -> Verdict:
    """Multiple choice; "g" where the parser draws an option at random."""
    shared = tasks("_task_utils.mmmu_mcq_utils")
    guessed = []
    doc = {
        "id": "validation_Art_1",
        "question_type": "multiple-choice",
        "options": repr(gold["choices"]),
        "answer": gold["answers"][0],
    }
    before, shared.random = shared.random, _Draws(guessed)
    try:
        return "g" if (score := _mmmu(doc, answer)) is None or guessed else score
    finally:
        shared.random = before


class _Draws:
    """The module's random, with a note of every draw."""

    def __init__(self, drawn: list[Any]) -> None:
        self.drawn = drawn

    def choice(self, options: list[Any]) -> Any:
        self.drawn.append(options)
        return random.choice(options)


def _mmmu(doc: dict[str, Any], answer: str) -> float:
    module = tasks("mmmu.utils")
    sample = module.mmmu_process_results(doc, [answer])["mmmu_acc"]
    return float(module.evaluate_mmmu([sample])[1]["acc"])


def mmmu_open(answer: str, gold: Gold) -> Verdict:
    """Open questions; several golds as the list literal that the table holds, which this task takes for one text."""
    golds = gold["answers"]
    doc = {"id": "validation_Math_1", "question_type": "open", "answer": golds[0] if len(golds) == 1 else repr(golds)}
    return _mmmu(doc, answer)


def mathvista(answer: str, gold: Gold) -> Verdict:
    module = tasks("mathvista.utils")
    problem = {
        "question_type": gold["kind"],
        "answer_type": gold["type"],
        "query": "",
        "choices": gold.get("choices"),
        "precision": gold.get("precision"),
    }
    # Its extraction catches every error, so the judge is noticed by a mark that no answer can be.
    asked: list[bool] = []
    module.mathvista_evaluator.create_test_prompt = lambda *rest: asked.append(True) or _ask()
    extraction = module.mathvista_evaluator.extract_answer(answer.strip(), problem)
    if asked:
        return "?"
    found = module.mathvista_evaluator.normalize_extracted_answer(
        extraction, problem["choices"], gold["kind"], gold["type"], gold.get("precision")
    )
    return float(module.mathvista_evaluator.safe_equal(found, gold["answers"][0]))


def ai2d(answer: str, gold: Gold) -> Verdict:
    chosen = tasks("ai2d.utils").MultiChoiceRegexFilter(
        group_select=0, ignore_case=True, ignore_punctuation=True, regex_pattern="([A-Z])\\."
    )
    return _exact(chosen.apply([[answer]], [{}])[0], gold["answers"][0])


def chartqa(answer: str, gold: Gold) -> Verdict:
    doc = {"type": "human_test", "answer": gold["answers"][0]}
    return tasks("chartqa.utils").chartqa_process_results(doc, [answer])["relaxed_overall"]


def ocrbench(answer: str, gold: Gold) -> Verdict:
    handwritten = gold["category"] == "Handwritten Mathematical Expression Recognition"
    doc = {
        "answer": gold["answers"],
        "dataset": "HME100k" if handwritten else "IIIT5K",
        "question_type": gold["category"],
    }
    return float(tasks("ocrbench.utils").ocrbench_process_results(doc, [answer])["ocrbench_accuracy"]["score"])


def textvqa(answer: str, gold: Gold) -> Verdict:
    doc = {"answers": list(gold["answers"]), "question_id": 1}
    return float(tasks("textvqa.utils").textvqa_process_results(doc, [answer])["exact_match"])


def docvqa(answer: str, gold: Gold) -> Verdict:
    return float(metrics.anls(references=gold["answers"], predictions=[answer])["anls"])


def mmvp(answer: str, gold: Gold) -> Verdict:
    doc = {"Index": 1, "Correct Answer": f"({gold['answers'][0].lower()})"}
    return float(tasks("mmvp.utils").mmvp_process_results(doc, [answer])["mmvp_accuracy"]["is_correct"])


def realworldqa(answer: str, gold: Gold) -> Verdict:
    doc = {"answer": gold["answers"][0]}
    return tasks("realworldqa.utils").realworldqa_process_results(doc, [answer])["exact_match"]


def _options(module: str, metric: str) -> Scorer:
    def scored(answer: str, gold: Gold) -> Verdict:
        doc = dict.fromkeys(("idx", "type", "task", "source", "sub_task"), "")
        doc |= {"answer": f"({gold['answers'][0]})", "choices": gold["choices"]}
        found = getattr(tasks(f"{module}.utils"), f"{module}_process_results")(doc, [answer])
        return float(found[metric]["is_correct"])

    return scored


def pope(answer: str, gold: Gold) -> Verdict:
    doc = {"answer": gold["answers"][0].lower(), "question_id": "1"}
    return tasks("pope.utils").pope_process_results(doc, [answer])["pope_accuracy"]["score"]


def naturalbench(answer: str, gold: Gold) -> Verdict:
    """1 is yes or A, 0 is no or B, -1 is neither."""
    kind = "multiple_choice" if gold.get("choices") else "yes_no"
    found = tasks("naturalbench.utils").extract_answer(answer, kind)
    return "?" if found == -1 else float(found == (gold["answers"][0] in ("Yes", "A")))


def mme_realworld(answer: str, gold: Gold) -> Verdict:
    doc = {"answer": gold["answers"][0], "category": "Perception/OCR", "l2-category": "color", "index": 1}
    found = tasks("mme_realworld.utils").mme_realworld_process_results(doc, [answer])["mme_realworld_score"]
    return float(found["pred_answer"] == found["answer"])


def mmstar(answer: str, gold: Gold) -> Verdict:
    doc = {"answer": gold["answers"][0], "category": "math", "l2_category": "geometry", "index": 1}
    return tasks("mmstar.utils").mmstar_process_results(doc, [answer])["average"]["score"]


def mathvision(answer: str, gold: Gold) -> Verdict:
    doc = {"answer": gold["answers"][0], "options": gold["choices"]}
    found = tasks("mathvision.utils").mathvision_process_results(doc, [answer])["mathvision_standard_eval"]
    return float(found["scores"][0])


def geometry3k(answer: str, gold: Gold) -> Verdict:
    doc = {"choices": gold["choices"], "ground_truth": gold["answers"][0]}
    return tasks("geometry3k.utils").geometry3k_process_results(doc, [answer])["exact_match"]


def vl_rewardbench(answer: str, gold: Gold) -> Verdict:
    """Responses of even summed length, the better one named by the gold."""
    module = tasks("vl_rewardbench.utils")
    module.parse_by_llm = _ask
    ranking = [0, 1] if gold["answers"] == ["1"] else [1, 0]
    doc = {"id": "rlhf-1", "response": ["ab", "cd"], "human_ranking": ranking}
    try:
        return module.vlrewardbench_process_results(doc, [answer])["vlreward_score"]["score"]
    except Judge:
        return "?"


SCORERS: dict[str, Scorer] = {
    scorer.__name__: scorer
    for scorer in (
        mme, mmbench, seed, gqa, scienceqa, mmmu, mmmu_open, mathvista, ai2d, chartqa, ocrbench, textvqa, docvqa,
        mmvp, realworldqa, pope, naturalbench, mme_realworld, mmstar, mathvision, geometry3k, vl_rewardbench,
    )
} | {
    "cv_bench": _options("cv_bench", "cv_bench_acc"),
    "blink": _options("blink", "blink_acc"),
    "naturalbench_choice": naturalbench,
}  # fmt: skip
SKIPPED = {
    "hallusionbench": "GPT-4 judges every answer",
    "mathverse": "a judge scores every answer",
    "coco_captions": "scored over the whole file",
    "detailcaps": "scored over the whole file",
    "mm_math": "lmms-eval has no such task",
}
