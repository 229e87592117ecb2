"""Encoded rows as text: which tokens are scored, which stand for images, and where two answers differ."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher
from typing import Any

import numpy as np

from pivot_jax.data.processing.batch import EncodedRow
from pivot_jax.data.processing.spelling import Spelling
from pivot_jax.report.data_rows import Span, Stream

LONGEST = 2_000  # pieces of a stream that are shown
EXACT = 1_000  # tokens of both answers, up to which difflib looks at frequent tokens too


def scored(row: EncodedRow) -> np.ndarray:
    """Which tokens of a row are targets: bool [n].

    A target is the token after its source, except the first one of a branch, whose source is the prompt's last token.
    """
    found = np.zeros(len(row.tokens), bool)
    first = {int(branch): int(np.argmax(row.branches == branch)) for branch in np.unique(row.branches)}
    for source, branch in zip(row.sources.tolist(), row.target_branches.tolist(), strict=True):
        begins = branch and int(row.branches[source]) != branch
        found[first[branch] if begins else source + 1] = True
    return found


def special_ids(tokenizer: Any) -> frozenset[int]:
    """Ids of control tokens."""
    added = getattr(tokenizer, "added_tokens_decoder", {})
    return frozenset(tokenizer.all_special_ids) | {number for number, token in added.items() if token.special}


class Reader:
    """Streams of a row's tokens. ``features``: of one image, by which ``image_slots`` counts them."""

    def __init__(self, tokenizer: Any, features: int):
        self._spelling, self._special, self._features = Spelling(tokenizer), special_ids(tokenizer), features

    def stream(self, title: str, row: EncodedRow, which: np.ndarray, changed: np.ndarray | None = None) -> Stream:
        """The tokens with numbers ``which`` [k]; ``changed``, bool [k]: marked as different."""
        targets = scored(row)[which]
        changed = np.zeros(len(which), bool) if changed is None else changed
        image = np.where(row.image_slots[which] < 0, -1, row.image_slots[which] // self._features)
        ids = row.tokens[which]
        special = np.isin(ids, list(self._special))
        spans: list[Span] = []
        looks = np.stack([targets, changed, special, image], axis=1)
        for start, end in _runs(looks):
            spans += self._spans(ids[start:end], looks[start])
        shown, left_out, at = shortened(spans)
        return Stream(title, tuple(shown), left_out, at)

    def _spans(self, ids: np.ndarray, look: np.ndarray) -> list[Span]:
        """Pieces of a run of tokens that look the same."""
        targets, changed, special, image = (int(value) for value in look)
        pieces: list[tuple[str, tuple[int, ...]]]
        if image >= 0:
            return [Span("<image>", (int(ids[0]),), "image", bool(targets), bool(changed), len(ids))]
        if special:
            pieces, kind = [(self._spelling.text(token), (token,)) for token in ids.tolist()], "special"
        else:
            pieces, kind = self._spelling.pieces(ids.tolist()), "text"
        return [Span(text, numbers, kind, bool(targets), bool(changed)) for text, numbers in pieces]


def _runs(looks: np.ndarray) -> Iterator[tuple[int, int]]:
    """Begin and end of each run of equal rows of an array [n, fields]."""
    if not len(looks):
        return
    ends = np.flatnonzero((looks[1:] != looks[:-1]).any(axis=1)) + 1
    yield from zip([0, *ends.tolist()], [*ends.tolist(), len(looks)], strict=True)


def shortened(spans: Sequence[Span]) -> tuple[list[Span], int, int]:
    """The two ends of a long stream, how many tokens are left out between them, and before which span."""
    if len(spans) <= LONGEST:
        return list(spans), 0, 0
    half = LONGEST // 2
    out = spans[half : len(spans) - half]
    return [*spans[:half], *spans[-half:]], sum(max(span.count, len(span.ids)) for span in out), half


def differing(one: Sequence[int], other: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Which tokens of two answers are not in the other one at their place: bool [len(one)], bool [len(other)]."""
    marks = np.zeros(len(one), bool), np.zeros(len(other), bool)
    frequent = len(one) + len(other) > EXACT
    for what, a, b, c, d in SequenceMatcher(None, list(one), list(other), autojunk=frequent).get_opcodes():
        if what != "equal":
            marks[0][a:b] = marks[1][c:d] = True
    return marks
