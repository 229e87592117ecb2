"""Goldens of every scorer, and the official scores of real model outputs."""

from __future__ import annotations

import gzip
import json
import re

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from pivot_jax.eval.scoring import math, scorers
from pivot_jax.eval.scoring.scorers import Gold
from pivot_jax.eval.scoring.table import SCORERS

AB = Gold(("(b)",), ("Open", "Closed"))


def read_gz(path):
    with gzip.open(path, "rt") as file:
        return json.load(file)


def test_every_scorer_says_whose_formula_it_is():
    """Toolkits differ for the same benchmark, and the paper's numbers are Cambrian-1's."""
    sources = ("Cambrian-1", "et al.", "LLaVA", "MultimodalOCR", "lmms-eval", "VLMEvalKit", "Our own")
    assert [name for name, scorer in SCORERS.items() if not any(source in scorer.__doc__ for source in sources)] == []
    assert "Cambrian-1 " in scorers.relaxed.__doc__  # which differs from it


@pytest.mark.parametrize("name", sorted(SCORERS))
@pytest.mark.parametrize(
    "text", ["", "   ", "\n", ".", "()", "<think>", None, "\x00", "答案是B", "9" * 400, "1e999", "nan"]
)
def test_odd_answers_never_crash(name, text):
    for gold in (AB, Gold(("12",)), Gold(("",)), Gold(()), Gold(("yes",) * 10)):
        score = SCORERS[name](text, gold)
        assert 0.0 <= score <= 1.0
        assert math.mathvista(text, gold) in (0.0, 1.0)
        assert math.mathvista(text, gold, cambrian=True) in (0.0, 1.0)
        assert math.mathvision(text, gold) in (0.0, 1.0)


@pytest.mark.parametrize("name", sorted(set(SCORERS) - {"yes_no_negation", "yes_no_negation_llava"}))
def test_empty_answer_is_wrong(name):
    for gold in (AB, Gold(("12",)), Gold(("yes",) * 10)):
        assert SCORERS[name]("", gold) == 0.0


def test_mmvp_letter_or_text():
    assert scorers.letter_or_text("(b)", AB) == 1
    assert scorers.letter_or_text("The answer is (B).", AB) == 1
    assert scorers.letter_or_text("Closed.", AB) == 1
    assert scorers.letter_or_text("B. Closed", AB) == 0  # Cambrian compares the whole text
    assert scorers.strict_letter("B. Closed", AB) == 1
    assert scorers.letter_or_text("Open", AB) == 0


@pytest.mark.parametrize(
    ("answer", "gold", "score"),
    [
        ("105", "100", 1),
        ("95", "100", 1),
        ("105.1", "100", 0),
        ("94.9", "100", 0),
        ("-95", "-100", 1),
        ("Blue", "blue", 1),
        ("light blue", "blue", 0),
        ("0", "0", 1),
        ("0.001", "0", 0),
        ("1,000", "1000", 1),
        ("", "7", 0),
    ],
)
def test_chartqa_relaxed_5_percent(answer, gold, score):
    assert scorers.relaxed(answer, Gold((gold,))) == score


def test_ocrbench_substring():
    assert scorers.substring("The sign says PRIVATE parking", Gold(("private",))) == 1
    assert scorers.substring("priv ate", Gold(("private", "public"))) == 0
    formula = Gold((r"\frac { a } { b }",), category="Handwritten Mathematical Expression Recognition")
    assert scorers.substring(r"It is \frac{a}{b}", formula) == 1
    assert scorers.substring(r"\FRAC{A}{B}", formula) == 0


def test_textvqa_soft_accuracy():
    golds = ("dakota digital",) * 3 + ("dakota",) * 2 + ("clos culombu",) * 5
    assert scorers.vqa("Dakota Digital", Gold(golds)) == pytest.approx((3 * 2 / 3 + 7 * 1) / 10)
    assert scorers.vqa("dakota", Gold(golds)) == pytest.approx((2 * 1 / 3 + 8 * 2 / 3) / 10)
    assert scorers.vqa("Clos Culombu", Gold(golds)) == 1
    assert scorers.vqa("unknown", Gold(golds)) == 0


@pytest.mark.parametrize(
    ("answer", "golds", "score"),
    [
        ("hello", ("hello",), 1.0),
        ("helo", ("hello",), 0.8),
        ("HELLO ", ("hello", "x"), 1.0),
        ("he", ("hello",), 0.0),
        ("hel", ("hello!",), 0.5),
        ("", ("",), 0.0),
    ],
)
def test_anls_threshold(answer, golds, score):
    assert scorers.anls(answer, Gold(golds)) == pytest.approx(score)


def edit_distance(first, second):
    """Levenshtein's distance by its recurrence."""
    previous = list(range(len(second) + 1))
    for row, left in enumerate(first, 1):
        current = [row]
        for column, right in enumerate(second, 1):
            current.append(min(previous[column] + 1, current[-1] + 1, previous[column - 1] + (left != right)))
        previous = current
    return previous[-1]


@given(st.text(max_size=40), st.text(max_size=40))
@example("\ud83d", "\ud83d\ude00")  # halves of a surrogate pair
@example("straße 5", "strasse 5")
def test_anls_equals_its_definition(answer, accepted):
    text, target = (" ".join(one.strip().lower().split()) for one in (answer, accepted))
    similarity = 1 - edit_distance(text, target) / max(len(text), len(target), 1)
    expected = similarity if text and similarity >= 0.5 else 0.0
    assert scorers.anls(answer, Gold((accepted,))) == expected


@given(st.text("ab(C) é", min_size=2, max_size=12), st.lists(st.text("abC é", max_size=9), min_size=1, max_size=4))
def test_mathvista_takes_the_nearest_option(answer, options):
    extraction = answer.strip()
    nearest = min(options, key=lambda option: edit_distance(extraction, option))
    assume(len(extraction) != 1 and not re.search(r"\([a-zA-Z]\)", extraction))  # those name an option by its letter
    score = math.mathvista_official(
        answer, Gold((nearest,), tuple(options)), answer_type="text", question_type="multi_choice"
    )
    assert score == 1.0


def test_scienceqa():
    gold = Gold(("B",), ("2/4", "probably; not", "C"))
    for right in ("B", "B. probably; not", "The answer is B.", "probably not", "Probably; not."):
        assert scorers.scienceqa(right, gold) == 1, right
    for wrong in ("A", "", "2/4", "Because B"):
        assert scorers.scienceqa(wrong, gold) == 0, wrong


def test_official_scienceqa_llava(shared_data):
    folder = shared_data / "eval_outputs" / "llava15_13b"
    rows = read_gz(folder / "llava-v1.5-13b_output.jsonl.gz")
    rows = rows["correct"] + rows["incorrect"]
    official = read_gz(folder / "llava-v1.5-13b_result.json.gz")
    scores = [scorers.scienceqa_llava(row["pred"], Gold((row["ground_truth"],))) for row in rows]
    assert len(scores) == official["count"] and sum(scores) == official["correct"]
    images = [score for score, row in zip(scores, rows, strict=True) if row["is_multimodal"]]
    assert 100 * sum(images) / len(images) == pytest.approx(71.64, abs=0.005)


@pytest.mark.parametrize("name", ["docVQA", "STVQA", "ESTVQA_EN", "SROIE", "IIIT5K"])
def test_official_ocr_words(shared_data, name):
    folder = shared_data / "eval_outputs" / "multimodalocr_llava"
    rows = read_gz(folder / f"{name}.json.gz")
    golds = [row["gt_answers"] if isinstance(row["gt_answers"], list) else [row["gt_answers"]] for row in rows]
    # These sets count whole words after EvalAI's normaliser, so they check the normaliser of the soft accuracy too.
    scorer = scorers.contains_text if name == "IIIT5K" else scorers.contains_words
    scores = [scorer(row["answer"], Gold(tuple(gold))) for row, gold in zip(rows, golds, strict=True)]
    official = json.loads((folder / "result.json").read_text())[name]
    assert sum(scores) / len(scores) == pytest.approx(official, abs=1e-9)
