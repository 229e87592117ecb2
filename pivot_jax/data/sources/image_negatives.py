"""Visual pairs from any answered rows: the same answer under the image, and under a corruption of it."""

from __future__ import annotations

from dataclasses import replace

from pivot_jax.data.example import Example
from pivot_jax.data.processing.corruptions import Corruption
from pivot_jax.data.processing.images import Changed
from pivot_jax.data.sources.base import RowByRow, Source
from pivot_jax.errors import RowError, UserError


class ImageNegatives(RowByRow):
    """Rows of a source as visual pairs (mDPO, Wang et al. 2024): the corrupted images are on the rejected side.

    The answer is the chosen one of a pair, or the last turn of a conversation.

    Args:
      rule: ``KIND:LEVEL`` of :class:`Corruption`; ``crop:0.8`` is mDPO's (at most a fifth of the image is left).

    Raises:
      UserError: another rule.
    """

    def __init__(self, source: Source, rule: str, seed: int):
        self._change = corruption(rule, seed)
        self.source, self.name = source, source.name
        self.fingerprint = f"{source.fingerprint}|image_negatives {self._change}" if source.fingerprint else ""

    def __getitem__(self, index: int) -> Example:
        example = self.source[index]
        if not example.images or example.images_rejected:
            what = "no image" if not example.images else "an image_rejected already"
            raise RowError(example.id, f"it has {what}, so 'image_negatives' cannot make a visual pair of it")
        messages, answer = example.messages, example.chosen
        if answer is None and messages and messages[-1].role == "assistant":
            messages, answer = messages[:-1], messages[-1].content
        if answer is None:
            raise RowError(example.id, "it has no right answer, which a visual pair needs")
        others = tuple(Changed(image, self._change) for image in example.images)
        return replace(
            example, id=f"{example.id}|{self._change.kind}", messages=messages, chosen=answer, rejected=None,
            mismatched=None, images=(*example.images, *others), images_rejected=len(others),
        )  # fmt: skip


def corruption(rule: str, seed: int = 0) -> Corruption:
    """Raises UserError: not ``KIND:LEVEL``."""
    kind, _, text = rule.partition(":")
    try:
        level = float(text)
    except ValueError:
        raise UserError(f"image_negatives: '{rule}' is not KIND:LEVEL, such as crop:0.8 or noise:0.3") from None
    return Corruption(kind, level, seed)
