"""Metrics of captions by their own libraries: BLEU, ROUGE-L, CIDEr and METEOR of ``pycocoevalcap``, and CAPTURE.

They are aggregates, because BLEU and METEOR add up counts over all captions, and CIDEr weighs words by how rare they
are in all references. Without the package's tokenizer the same captions have other values, and the names then say so.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pivot_jax.errors import UserError
from pivot_jax.eval.scoring import coco_package
from pivot_jax.eval.scoring.aggregate import Aggregate, Scored, Summary, Sums, of_sums, ratio
from pivot_jax.eval.scoring.coco_package import Captions
from pivot_jax.eval.statistics import Interval

ORDERS = 4  # BLEU-1 to BLEU-4
UNTOKENIZED = "_without_tokenizer"
_TINY, _SMALL = 1e-15, 1e-9  # as the package keeps empty captions from dividing by zero
# METEOR 1.5 for English: recall against precision, fragmentation (exponent, weight), content against function words,
# and the weights of exact, stem, synonym and paraphrase matches (Denkowski and Lavie 2014).
_ALPHA, _BETA, _GAMMA, _DELTA, _STAGES = 0.85, 0.2, 0.6, 0.75, (1.0, 0.6, 0.8, 0.6)


@dataclass(frozen=True)
class Columns:
    """What each image adds to the sums of some metrics [n, k], and these metrics as statistics of the k sums."""

    sums: np.ndarray
    metrics: Mapping[str, Sums]


def coco(*, tokenizer: bool | None = None, capture: bool = False) -> Aggregate:
    """CIDEr (Vedantam et al. 2015), BLEU-1 to BLEU-4, ROUGE-L, and METEOR where the tokenizer is used.

    Intervals resample images: BLEU and METEOR from the resampled counts, CIDEr and ROUGE-L as means of their per-image
    values. CIDEr's word weights stay those of the whole set; of a single image it is 0, as every word is then in all
    images.

    Args:
      tokenizer: whether the Penn Treebank tokenizer takes the captions apart. None: where Java is installed; elsewhere
        all names end with :data:`UNTOKENIZED`.
      capture: CAPTURE (Dong et al. 2024) is the headline where the package ``capture-metric`` is installed.
    """

    def summarise(rows: Sequence[Scored], seed: int) -> Summary:
        used = coco_package.has_java() if tokenizer is None else tokenizer
        if used and not coco_package.has_java():
            raise UserError(
                "captions: the tokenizer of this toolkit needs Java, and there is no program 'java'; install it (such "
                "as openjdk-17-jre-headless), or take --aggregate vlmevalkit, which uses no tokenizer"
            )
        found: dict[str, Interval] = {}
        for columns in parts(rows, tokenized=used, meteor=used):
            found |= of_sums(columns.sums, columns.metrics, shares=False, seed=seed)
        found = {name if used else name + UNTOKENIZED: one for name, one in found.items()}
        if capture and (detailed := _capture(rows)):
            found = of_sums(detailed.sums, detailed.metrics, shares=False, seed=seed) | found
        headline = next(iter(found))
        return Summary(headline, found.pop(headline), found)

    return Aggregate(summarise)


def parts(rows: Sequence[Scored], *, tokenized: bool, meteor: bool) -> list[Columns]:
    """The columns of CIDEr and ROUGE-L, METEOR, and BLEU.

    Raises:
      UserError: the package is missing, or its Java programs failed; or a question has no reference.
    """
    answers = {index: [row.verdict.read] for index, row in enumerate(rows)}
    golds = {index: list(row.gold.answers) for index, row in enumerate(rows)}
    if empty := [row.id for row in rows if not row.gold.answers]:
        raise UserError(f"captions: question '{empty[0]}' has no reference; each needs at least one")
    if tokenized:
        golds, answers = coco_package.tokenized(golds, answers)
    cider = coco_package.package("cider.cider").Cider().compute_score(golds, answers)[1]
    rouge = coco_package.package("rouge.rouge").Rouge().compute_score(golds, answers)[1]
    found = [_mean("cider", cider), _mean("rouge_l", rouge)]
    found += [Columns(coco_package.meteor_sums(golds, answers), {"meteor": meteor_of})] if meteor else []
    counts = _bleu_counts(golds, answers)
    return [*found, Columns(counts, {f"bleu_{order}": bleu_of(order) for order in range(ORDERS, 0, -1)})]


def _mean(name: str, values: Sequence[float]) -> Columns:
    sums = np.stack([np.asarray(values, float), np.ones(len(values))], axis=1)
    return Columns(sums, {name: lambda s: ratio(s[:, 0], s[:, 1])})


def bleu_of(order: int) -> Sums:
    """BLEU-``order`` (Papineni et al. 2002) of sums [draws, 10]: lengths of captions and nearest references; counts of
    n-grams that are in a reference, and of all, for n = 1 to 4."""

    def value(sums: np.ndarray) -> np.ndarray:
        right, all_of_them = sums[:, 2 : 2 + order], sums[:, 2 + ORDERS : 2 + ORDERS + order]
        precision = np.prod((right + _TINY) / (all_of_them + _SMALL), axis=1) ** (1 / order)
        lengths = (sums[:, 0] + _TINY) / (sums[:, 1] + _SMALL)
        return precision * np.where(lengths < 1, np.exp(1 - 1 / lengths), 1.0)

    return value


def _bleu_counts(golds: Captions, answers: Captions) -> np.ndarray:
    scorer = coco_package.package("bleu.bleu_scorer").BleuScorer(n=ORDERS)
    for index, (answer,) in answers.items():
        scorer += (answer, golds[index])
    rows = []
    for one in scorer.ctest:
        nearest = min((abs(length - one["testlen"]), length) for length in one["reflen"])[1]
        rows.append([one["testlen"], nearest, *one["correct"], *one["guess"]])
    return np.array(rows, float)


def meteor_of(sums: np.ndarray) -> np.ndarray:
    """METEOR 1.5 (Denkowski and Lavie 2014) of sums [draws, 23] of :func:`coco_package.meteor_sums`: [draws].

    F · (1 − γ · (chunks / matched words)^β) with F = P·R / (α·P + (1 − α)·R); P and R are weighted shares of matched
    words of the captions and of the references.
    """
    matches = np.einsum("dsk,s->dk", sums[:, 4:20].reshape(len(sums), 4, 4), np.asarray(_STAGES))
    shares = []
    for side in (0, 1):  # of the captions, of the references
        words, function = sums[:, side], sums[:, 2 + side]
        matched = _DELTA * matches[:, side] + (1 - _DELTA) * matches[:, 2 + side]
        shares.append(ratio(matched, _DELTA * (words - function) + (1 - _DELTA) * function))
    precision, recall = shares
    f_mean = ratio(precision * recall, _ALPHA * precision + (1 - _ALPHA) * recall)
    fragmentation = ratio(2 * sums[:, 20], sums[:, 21] + sums[:, 22])
    return f_mean * (1 - _GAMMA * fragmentation**_BETA)


def _capture(rows: Sequence[Scored]) -> Columns | None:
    """CAPTURE of each image; None where its package is missing."""
    try:
        metric = importlib.import_module("capture_metric.capture").CAPTURE()
    except ModuleNotFoundError as error:
        if error.name != "capture_metric":
            raise UserError(f"captions: capture-metric is installed, but {error}; install that too") from None
        return None
    golds = {row.id: list(row.gold.answers) for row in rows}
    return _mean("capture", metric.compute_score(golds, {row.id: [row.verdict.read] for row in rows})[1])
