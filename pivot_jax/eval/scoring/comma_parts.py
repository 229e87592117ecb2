"""Answers of several parts between commas, as OlympiadBench's judge (He et al. 2024) pairs them up."""

from __future__ import annotations

import re
from collections.abc import Callable

_HAN = re.compile(r"[\u4e00-\u9fff]+")


def pair_up(first: str, second: str, same: Callable[[str, str], bool]) -> bool:
    """Whether the parts of both texts pair up by ``same``, each with one of its own."""
    left, right = split(first), split(second)
    if len(left) != len(right):
        return False
    at = -1
    while left:
        at = (at + 1) % len(left)
        match = next((part for part in right if same(left[at], part)), None)
        if match is None:
            return False
        left.remove(left[at])
        right.remove(match)
    return True


def split(text: str) -> list[str]:
    """Split at commas outside of brackets; two ``<`` are an interval, and ``\\pm`` gives two parts."""
    text = text if _HAN.fullmatch(text) else _HAN.sub("", text)
    if text.count("<") == 2:
        pieces = text.split("<")
        text = f"({pieces[0]}, {pieces[-1]})"
    parts, depth, start = [], 0, 0
    for at, char in enumerate(text):
        depth += (char in "([") - (char in ")]")
        if char == "," and depth == 0:
            parts.append(text[start:at].strip())
            start = at + 1
    if start < len(text):
        parts.append(text[start:].strip())
    signs = [("+", "-") if "\\pm" in part else ("",) for part in parts]
    return [part.replace("\\pm", sign) for part, both in zip(parts, signs, strict=True) for sign in both]
