"""Differences between two encoders that were probed on the same test images."""

from __future__ import annotations

from pivot_jax.errors import UserError
from pivot_jax.eval import statistics
from pivot_jax.eval.statistics import Interval
from pivot_jax.probe import segmentation
from pivot_jax.probe.encoder_probes import Classified
from pivot_jax.probe.segmentation import SegmentResult

METRICS = ("miou", "recall")


def difference(
    first: Classified | SegmentResult, second: Classified | SegmentResult, *, metric: str = "miou", seed: int = 0
) -> Interval:
    """``first`` − ``second``, of accuracy or of a segmentation's ``metric``: a paired bootstrap over the test images.

    What makes an image easy or hard is common to both and cancels, so this interval is narrower than the two results'
    own would suggest.

    Args:
      first, second: of :func:`encoder_probes.classify`, or both of :func:`encoder_probes.segment`, on the same data.
      metric: of a segmentation: ``miou``, or ``recall``, which is patch-seg's.
      seed: of the bootstrap.

    Raises:
      UserError: results of two kinds or of different test images, or an unknown metric.
    """
    if metric not in METRICS:
        raise UserError(f"metric '{metric}' is unknown; choose one of {', '.join(METRICS)}")
    try:
        if isinstance(first, SegmentResult) and isinstance(second, SegmentResult):
            return segmentation.difference(first, second, metric, seed=seed)
        if isinstance(first, Classified) and isinstance(second, Classified):
            return statistics.difference(first.result.correct, second.result.correct, seed=seed)
    except ValueError as error:
        raise UserError(f"{error}; probe both encoders on the same data") from None
    raise UserError(
        f"a {type(first).__name__} and a {type(second).__name__} cannot be compared; give two results of "
        "probe.classify, or two of probe.segment"
    )
