"""Caption metrics: published figures of two small sets, the package's own scores, and odd captions."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from pivot_jax.errors import UserError
from pivot_jax.eval.scoring import caption_metrics, captions, coco_package
from pivot_jax.eval.scoring.aggregate import Scored
from pivot_jax.eval.scoring.scorers import Gold

pytest.importorskip("pycocoevalcap")
needs_java = pytest.mark.skipif(shutil.which("java") is None, reason="the tokenizer and METEOR need Java")
PARK = "a red dog and the small cat sit near one car in some green park"
ODD = [
    ("", ["a dog", "b"]),
    ("a dog\nruns\u2028 c\ud800", ["...", "A dog runs."]),
    ("caf\u00e9 ||| x", ["a ||| b", "caf\u00e9"]),
    ("a cat", ["A cat."]),
    ("The quick brown fox jumps over it", ["A quick brown fox jumps over the dog", "Foxes jump."]),
]


def scored(pairs):
    """Rows of (caption, references)."""
    rows = []
    for number, (text, references) in enumerate(pairs):
        gold = Gold(tuple(references), id=str(number))
        rows.append(Scored(gold.id, captions.caption(text, gold), gold))
    return rows


def published_set(folder, name):
    """The rows of a set of expected.json, and its figures."""
    expected = json.loads((folder / "expected.json").read_text())["captions"]
    folder = folder / "captions"
    if name == "nlg_eval":
        texts = (folder / "nlg_eval/hyp.txt").read_text().splitlines()
        references = zip(*((folder / f"nlg_eval/ref{n}.txt").read_text().splitlines() for n in (1, 2)), strict=True)
        return scored(zip(texts, references, strict=True)), expected["nlg_eval (2 hypotheses, 2 references each)"]
    references = json.loads((folder / "clipscore/refs.json").read_text())
    texts = json.loads((folder / f"clipscore/{name}.json").read_text())
    return scored((texts[one], references[one]) for one in texts), expected[f"clipscore {name}"]


def numbers(summary):
    return {name: one.value for name, one in ({summary.metric: summary.value} | summary.others).items()}


@needs_java
@pytest.mark.heavy_after(2)
@pytest.mark.parametrize("name", ["nlg_eval", "good_captions", "bad_captions"])
def test_published_figures(shared_data, name):
    rows, expected = published_set(shared_data / "eval_outputs_more", name)
    found = numbers(caption_metrics.coco(tokenizer=True).summarise(rows, 0))
    assert list(found) == ["cider", "rouge_l", "meteor", "bleu_4", "bleu_3", "bleu_2", "bleu_1"]
    compared = {one.lower(): value for one, value in expected["published"].items() if one != "SPICE"}
    assert compared.keys() == found.keys()
    for metric, value in compared.items():
        assert found[metric] == pytest.approx(value, abs=5.1e-5), metric  # published with four or six digits


@needs_java
@pytest.mark.parametrize("name", ["good_captions"])
def test_figures_without_the_tokenizer(shared_data, name):
    rows, expected = published_set(shared_data / "eval_outputs_more", name)
    known = {one.lower(): value for one, value in expected["recomputed, no tokenizer"].items()}
    summary = caption_metrics.coco(tokenizer=False).summarise(rows, 0)
    found = numbers(summary)
    assert summary.metric == "cider_without_tokenizer"
    assert "meteor_without_tokenizer" not in found
    for metric in ("cider", "rouge_l"):
        assert found[f"{metric}_without_tokenizer"] == pytest.approx(known[metric], abs=1e-6)
    (meteor,) = [p for p in caption_metrics.parts(rows, tokenized=False, meteor=True) if "meteor" in p.metrics]
    assert caption_metrics.meteor_of(meteor.sums.sum(0)[None])[0] == pytest.approx(known["meteor"], abs=1e-6)


@needs_java
def test_odd_captions_have_the_scores_of_the_package():
    """BLEU and METEOR are computed here from the package's counts; per image and over all they are its own."""
    golds, answers = coco_package.tokenized(
        {index: references for index, (_, references) in enumerate(ODD)},
        {index: [text] for index, (text, _) in enumerate(ODD)},
    )
    assert answers[1] == ["a dog runs c"] and golds[1] == ["", "a dog runs"]
    columns = caption_metrics.parts(
        scored((answers[index][0], golds[index]) for index in answers), tokenized=False, meteor=True
    )
    found = {name: value(one.sums.sum(0)[None])[0] for one in columns for name, value in one.metrics.items()}
    bleus = coco_package.package("bleu.bleu").Bleu(4).compute_score(golds, answers, verbose=0)[0]
    assert [found[f"bleu_{n}"] for n in (1, 2, 3, 4)] == pytest.approx(bleus, abs=1e-9)
    own = {index: [text.replace("|||", " ") for text in texts] for index, texts in golds.items()}
    total, each = coco_package.package("meteor.meteor").Meteor().compute_score(own, answers)
    (meteor,) = [one.sums for one in columns if "meteor" in one.metrics]
    assert found["meteor"] == pytest.approx(total, abs=1e-6)
    assert caption_metrics.meteor_of(meteor) == pytest.approx(each, abs=1e-6)
    assert each[3] == 1.0  # equal to its reference: no penalty, and none in the sums


def test_without_java_the_names_say_so(monkeypatch):
    monkeypatch.setattr(coco_package.shutil, "which", lambda program: None)
    summary = caption_metrics.coco().summarise(scored(ODD), 0)
    assert {name.endswith("_without_tokenizer") for name in numbers(summary)} == {True}
    with pytest.raises(UserError, match="needs Java.*--aggregate vlmevalkit"):
        caption_metrics.coco(tokenizer=True).summarise(scored(ODD), 0)


def test_without_the_package_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pycocoevalcap.cider.cider", None)
    with pytest.raises(UserError, match=r"pip install 'pivot-jax\[captions\]'"):
        caption_metrics.coco(tokenizer=False).summarise(scored(ODD), 0)


def test_a_question_without_a_reference_is_named():
    with pytest.raises(UserError, match="question '1' has no reference"):
        caption_metrics.coco(tokenizer=False).summarise(scored([("a", ["a"]), ("b", [])]), 0)


def test_intervals_hold_the_score_and_shrink():
    words = PARK.split()
    pairs = [
        (" ".join(words[at : at + 4]), [" ".join(words[at : at + 2 + at % 3]), words[at]])
        for at in range(len(words) - 4)
    ]
    few, many = (caption_metrics.coco(tokenizer=False).summarise(scored(own), 0) for own in (pairs, pairs * 8))
    for name, one in ({few.metric: few.value} | few.others).items():
        assert one.low <= one.value <= one.high and one.n == len(pairs), name
    wide, narrow = few.value, many.value
    assert 0 < narrow.high - narrow.low < wide.high - wide.low


def test_the_score_of_a_caption_is_rouge_l():
    """As the package's, on captions without punctuation."""
    for text, references in [("a dog runs", ["the dog runs fast", "a cat"]), ("x y", ["a b"]), ("a", ["a"])]:
        expected = coco_package.package("rouge.rouge").Rouge().calc_score([text], references)
        gold = Gold(tuple(references))
        assert float(captions.caption(text, gold)) == pytest.approx(expected)
        assert captions.caption(text, gold).read == text
    assert captions.caption(" \n", Gold(("a",))).read == ""
    assert np.isclose(float(captions.caption("A dog.", Gold(("a DOG",)))), 1.0)
