"""Paired differences of two probes' results, against the statistics written out here."""

from __future__ import annotations

import numpy as np
import pytest

import pivot_jax as pj
from pivot_jax.errors import UserError
from pivot_jax.eval import statistics
from pivot_jax.probe import segmentation
from pivot_jax.probe.classification import ProbeResult
from pivot_jax.probe.encoder_probes import Classified
from pivot_jax.probe.segmentation import SegmentResult

CORRECT = np.random.default_rng(0).random((2, 400)) < np.array([[0.8], [0.7]])


def classified(correct):
    interval = statistics.mean(correct.astype(float))
    result = ProbeResult(float(correct.mean()), interval, 1.0, correct, correct.astype(int))
    return Classified(result, ("a", "b"), {"test": len(correct)})


def segmented(seed, images=30):
    """Results of two seeds on random counts of three classes."""
    rng = np.random.default_rng(seed)
    true, said = rng.integers(1, 9, (2, 2, images, 3))
    overlap = np.stack([np.minimum(true, said) * rng.integers(0, 2, true.shape), true, said], -1).astype(np.float32)
    hits = overlap[..., :2]
    scores = [segmentation.mean_iou(overlap.sum(1)), segmentation.recall_of(hits.sum(1))]
    whole = statistics.mean(np.arange(3.0))
    seeds = dict(zip(("miou", "recall"), map(tuple, scores), strict=True))
    return SegmentResult(*map(lambda x: float(x.mean()), scores), {}, whole, whole, seeds, overlap, hits)


def test_accuracies_are_compared_image_by_image():
    found = pj.probe.difference(classified(CORRECT[0]), classified(CORRECT[1]))
    assert found.value == pytest.approx(CORRECT[0].mean() - CORRECT[1].mean()) and found.n == 400
    shuffled = CORRECT[1][np.argsort(~CORRECT[1])]  # the same accuracy on other images
    of_sorted = pj.probe.difference(classified(np.sort(CORRECT[0])[::-1]), classified(shuffled))
    assert of_sorted.value == pytest.approx(found.value)
    assert of_sorted.high - of_sorted.low < 0.8 * (found.high - found.low)  # pairs that agree leave less doubt


@pytest.mark.parametrize("metric", ["miou", "recall"])
def test_segmentations_are_compared_by_either_metric(metric):
    first, second = segmented(0), segmented(1)
    found = pj.probe.difference(first, second, metric=metric)
    assert found.value == pytest.approx(getattr(first, metric) - getattr(second, metric), abs=1e-6)
    assert found.low < found.value < found.high and found.n == 30
    other = pj.probe.difference(second, first, metric=metric)
    assert other.low == pytest.approx(-found.high, abs=1e-6)


def test_what_cannot_be_compared_says_why():
    one, two = classified(CORRECT[0]), segmented(0)
    with pytest.raises(UserError, match="a Classified and a SegmentResult cannot be compared"):
        pj.probe.difference(one, two)
    with pytest.raises(UserError, match="same seeds and items.*probe both encoders on the same data"):
        pj.probe.difference(one, classified(CORRECT[1][:300]))
    with pytest.raises(UserError, match="same test images and classes"):
        pj.probe.difference(two, segmented(1, images=20))
    with pytest.raises(UserError, match="metric 'iou' is unknown; choose one of miou, recall"):
        pj.probe.difference(two, two, metric="iou")
