"""Answers as models really give them, and worse, and the golds that they are scored against.

Everything is seeded: the same count gives the same answers everywhere. A gold has the fields of our ``Gold``
(``answers``, ``choices``, ``category``) and, where a toolkit's rule reads more, ``kind``, ``precision`` or ``type``.
"""

from __future__ import annotations

import random
from typing import Any

Gold = dict[str, Any]
LETTERS = "ABCDEFGHI"

WORDS = ["Don't stop", 'the "old" way', "A. B. Smith's", "50% off, maybe"]
CHOICES: list[Gold] = [
    {"answers": ["A"], "choices": ["the dog", "the cat", "a house", "the sky"]},
    {"answers": ["B"], "choices": WORDS},
    {"answers": ["C"], "choices": ["1", "2.5", "three", "14"]},
    {"answers": ["D"], "choices": ["Yes", "No", "Maybe", "None of the above"]},
    {"answers": ["A"], "choices": ["cat", "cat and dog", "a cat", "dog"]},
    {"answers": ["B"], "choices": ["$6", "$7", "$8", "$9"]},
]
FEWER: list[Gold] = [
    {"answers": ["B"], "choices": ["left", "right"]},
    {"answers": ["C"], "choices": ["red", "blue", "green"]},
]
FIVE: list[Gold] = [
    {"answers": ["E"], "choices": ["red", "blue", "green", "black", "It is not shown."]},
    {"answers": ["D"], "choices": ["A", "B", "C", "D", "E"]},
]
PAIRS: list[Gold] = [
    {"answers": [letter], "choices": pair}
    for pair in (["Yes", "No"], ["the cat", "the dog"], ["Open", "Closed (it's shut)"])
    for letter in "AB"
]
YES_NO: list[Gold] = [{"answers": ["Yes"]}, {"answers": ["No"]}]
NUMBERS: list[Gold] = [
    {"answers": [text]} for text in ("14", "12.5%", "2,018", "Yes", "0", "-3.5", "the cat", "0.57", "1e3", "3.0")
]
TEXTS: list[Gold] = [
    {"answers": ["CENTRE"], "category": "Regular Text Recognition"},
    {"answers": ["(206) 555-1234", "2065551234"], "category": "Doc-oriented VQA"},
    {"answers": ["\\frac { 1 } { 2 } x"], "category": "Handwritten Mathematical Expression Recognition"},
    {"answers": ["ＲＭ 9.00"], "category": "Key Information Extraction"},
    {"answers": ["the cat"], "category": "Scene Text-centric VQA"},
    {"answers": ["14"], "category": "Digit String Recognition"},
]
TEN: list[Gold] = [
    {"answers": ["dakota"] * 6 + ["dakota digital"] * 3 + ["the cat"]},
    {"answers": ["don't"] * 5 + ["dont"] * 5},
    {"answers": ["14"] * 2 + ["fourteen"] * 4 + ["yes"] * 4},
    {"answers": ["$4.99"] * 3 + ["4.99"] * 7},
    {"answers": ["yes"] * 10},
    {"answers": ["2,018"] * 5 + ["2018"] * 5},
]
PHRASES: list[Gold] = [
    {"answers": ["0.28"]},
    {"answers": ["R. J. Reynolds", "Dr.  R.J. Reynolds "]},
    {"answers": ["the cat"]},
    {"answers": ["14", "fourteen"]},
    {"answers": ["2,018"]},
    {"answers": ["Don't  stop"]},
]
SHORT: list[Gold] = [{"answers": [text]} for text in ("no", "yes", "cat", "the cat", "don't", "2", "t-shirt")]
OPEN: list[Gold] = [
    {"answers": answers, "kind": "open"}
    for answers in (["24/7", "3.429"], ["Smooth muscle"], ["14"], ["2,018"], ["0.57"], ["x"])
]
REAL_WORLD: list[Gold] = [*CHOICES[:4], {"answers": ["3"]}, {"answers": ["Downhill"]}, {"answers": ["Yes"]}]
MATHEMATICS: list[Gold] = [
    {"answers": ["14"], "kind": "free_form", "type": "integer"},
    {"answers": ["0.57"], "kind": "free_form", "type": "float", "precision": 2},
    {"answers": ["3.0"], "kind": "free_form", "type": "float", "precision": 1},
    {"answers": ["[1, 2]"], "kind": "free_form", "type": "list"},
    {"answers": ["No"], "choices": ["Yes", "No"], "kind": "multi_choice", "type": "text"},
    {"answers": ["14"], "choices": ["1", "2.5", "three", "14"], "kind": "multi_choice", "type": "text"},
]
FORMULAS: list[Gold] = [
    {"answers": ["\\frac{1}{2}"]},
    {"answers": ["2\\sqrt{3}"]},
    {"answers": ["35^\\circ"]},
    {"answers": ["14"]},
    {"answers": ["x=3"]},
    {"answers": ["(1, 2)"]},
]
SOLUTIONS: list[Gold] = [
    {"answers": ["A"], "choices": ["A", "B", "C", "D", "E"]},
    {"answers": ["B"], "choices": ["$\\frac{1}{2}$", "0.25", "2", "3", "none"]},
    {"answers": ["\\sqrt{2}"], "choices": []},
    {"answers": ["14"], "choices": []},
    {"answers": ["0.5"], "choices": []},
]

GOLDS: dict[str, list[Gold]] = {
    "mme": YES_NO,
    "mmbench": CHOICES + FEWER,
    "seed": CHOICES,
    "gqa": SHORT,
    "scienceqa": CHOICES + FEWER + FIVE,
    "mmmu": CHOICES + FEWER + FIVE,
    "mmmu_open": OPEN,
    "mathvista": MATHEMATICS,
    "ai2d": CHOICES,
    "chartqa": NUMBERS,
    "ocrbench": TEXTS,
    "textvqa": TEN,
    "docvqa": PHRASES,
    "mmvp": PAIRS,
    "realworldqa": REAL_WORLD,
    "cv_bench": CHOICES + FEWER,
    "cv_bench_3d": FEWER + CHOICES[:2],
    "pope": YES_NO,
    "hallusionbench": YES_NO,
    "naturalbench": YES_NO,
    "naturalbench_choice": PAIRS[2:4],
    "mme_realworld": FIVE + CHOICES[:3],
    "blink": CHOICES + FEWER,
    "mmstar": CHOICES,
    "mathvision": SOLUTIONS,
    "geometry3k": CHOICES,
    "mm_math": FORMULAS,
    "vl_rewardbench": [{"answers": ["1"]}, {"answers": ["2"]}],
}

# Sentences, with @ for the answer proper.
FRAMES = [
    "@", "@.", "(@)", "@)", "(@).", " @ ", "@\n", "@,", "@:", "**@**", "'@'", "\"@\"", "Answer: @", "answer: @.",
    "The answer is @", "The answer is @.", "the answer is (@).", "The correct answer is **@**. Here's why: it fits.",
    "The answer is: @", "Option @", "I think it is @, but I am not sure.", "It could be A or @.", "@ is correct.",
    "@\n\nExplanation: the image shows a cat and a dog.",
    "Let me see.\nFirst, there is a table.\nSo the answer is @.", "<think>It may be B.</think>@",
    "<think>no</think>\n<answer>@</answer>", "\\boxed{@}", "$\\boxed{@}$.", "Final answer: \\boxed{@}", "@ @",
    "Not @.", "@!", "@?", "The best answer is: @", "Best answer: @", "It's @",
    "Overall Judgment: Answer @ is better.", "A person would say @, because of the colour of the house in the image.",
]  # fmt: skip
PLAIN = [
    "", " ", "\n", ".", "A", "B", "C", "D", "E", "a", "b", "F", "Z", "AB", "A and B", "A, B", "(A) the dog",
    "B. the cat", "A: the dog", "A) the dog", "a.", "(b)", "Ａ", "（Ｂ）", "А", "yes", "no", "Yes", "No", "YES", "NO",
    "Yes.", "No,", "no.", "yes, there is", "nope", "Yes and no", "There is no cat.", "not", "I do not know",
    "unknown", "y", "n", "Yes, there is no doubt.", "nothing", "Noël", "14", "14.0", "14.6", "13.3", "14%", "0.14",
    "1,4", "2018", "2,018", "2,018.0", "2 018", "1000", "1e3", "1E3", "$14", "14 cm", "-14", "12.5", "12.5%", "0.125",
    "0", "0.0", "0%", "zero", "fourteen", "three", "3", "-3.5", "−3.5", "3.50", "nan", "inf", "½", "٣", "1_000",
    "0x10", "24/7", "3.429", "3.43", "1/2", "\\frac{1}{2}", "\\dfrac{1}{2}", "\\frac { 1 } { 2 } x", "\\frac{1}{2}x",
    "0.5", "0.57", "0.6", "2\\sqrt{3}", "\\sqrt{12}", "\\sqrt{2}", "1.41", "35", "35^\\circ", "35°", "35^{\\circ}",
    "x=3", "x = 3", "3=x", "(1, 2)", "(1,2)", "[1, 2]", "1, 2", "the cat", "The Cat", "cat", "cats", "the cat.",
    "a cat", "THE CAT", "the  cat", "cat and dog", "Don't stop", "dont stop", "don't", "dont", "t-shirt", "t shirt",
    "CENTRE", "centre", "Center", "cen\ntre", "RM 9.00", "ＲＭ 9.00", "rm9.00", "2065551234", "(206) 555-1234",
    "206-555-1234", "dakota", "Dakota digital", "dakota, digital", "dakota's", "$4.99", "4.99", "R.J. Reynolds",
    "R. J.  Reynolds", "r. j. reynolds", "Smooth muscle", "It is smooth muscle.", "None of the above", "none",
    "the old way", "50% off, maybe", "I'm sorry, but without the image provided I can't.",
    "Sorry, I can't help with images of people yet.", "答案是B", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", "left", "right",
    "Downhill", "downhill.", "Open", "Closed", "It is not shown.", "red", "$7", "The per unit cost is $7.", "x",
]  # fmt: skip


def answers(count: int, seed: int = 0) -> list[str]:
    """``count`` different answers to no question in particular: of plain ones two thirds, the rest in sentences."""
    rng = random.Random(seed)
    golds = [gold for listed in GOLDS.values() for gold in listed]
    texts = [text for gold in golds for text in (*gold["answers"], *gold.get("choices", ()))]
    fillings = list(dict.fromkeys([*"ABCDEab", "yes", "no", *texts]))
    return _filled(rng, fillings, count, rng.sample(PLAIN, len(PLAIN))[: max(1, count * 2 // 3)])


def own(gold: Gold, count: int, seed: int = 0) -> list[str]:
    """``count`` different answers to a gold's question: its letters, its texts, numbers near it, in sentences."""
    rng = random.Random(f"{seed} {gold}")
    choices = gold.get("choices", [])
    fillings = [*gold["answers"], *gold["answers"]]
    for letter, text in zip(LETTERS, choices, strict=False):
        fillings += [letter, letter.lower(), text, f"{letter}. {text}", f"({letter}) {text}", f"{letter}: {text}"]
    if not choices:
        for accepted in gold["answers"]:
            fillings += [accepted.rstrip("."), f"{accepted} or so", f"the {accepted}", accepted.replace(" ", ""), "yes"]
            fillings += _near(accepted)
    fillings = list(dict.fromkeys(text.strip() for text in fillings))
    return _filled(rng, fillings, count, fillings[: count // 3])


def _near(text: str) -> list[str]:
    """Numbers at 4 and 6 per cent from a number, with other units; nothing for a text that is none."""
    try:
        number = float(text.replace(",", "").rstrip("%"))
    except ValueError:
        return []
    near = [f"{number * factor:.4g}" for factor in (0.94, 0.96, 1.04, 1.05, 1.06, 0.01, 100)]
    return [*near, f"{number:,.0f}", f"{number:.2f}", f"{near[2]}%", f"{text}%", f"{text} cm", f"${text}", f"-{text}"]


def _filled(rng: random.Random, fillings: list[str], count: int, first: list[str]) -> list[str]:
    found = dict.fromkeys(first)
    while len(found) < count:
        frame, text, other = rng.choice(FRAMES), rng.choice(fillings), rng.choice(fillings)
        changed = rng.choice([str, str, str, str, str.lower, str.upper, str.capitalize])(text)
        joined = rng.choice([changed, changed, changed, changed, f"{changed} {other}", f"{changed}, not {other}"])
        found[frame.replace("@", joined)] = None
    return list(found)[:count]
