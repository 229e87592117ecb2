"""Penalty for letters of another script than that of the answers."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from functools import cache
from typing import Literal

from pivot_jax.rl.rewards.completion import Completion

_HAN = re.compile(r"[\u4e00-\u9fff]")


def language(
    item: Completion,
    *,
    style: Literal["scripts", "maye"] = "scripts",
    scripts: tuple[str, ...] = ("LATIN", "GREEK"),
    scale: float = 0.1,
) -> float:
    """``-scale`` times the share of foreign characters; 0 for an empty text.

    Args:
      style: ``scripts``: the letters of all scripts but ``scripts``, as a share of all letters. ``maye``: the
        ideographs U+4E00..U+9FFF, as a share of all characters (MAYE's ``language_reward_fn``, whose scale is 0.1);
        kana, Hangul, Cyrillic and the rarer ideographs are free of charge.
      scripts: as Unicode names its letters: LATIN, GREEK, CYRILLIC, CJK, HIRAGANA, KATAKANA, HANGUL, ARABIC, …
    """
    if style == "maye":
        return -scale * (len(_HAN.findall(item.text)) / len(item.text)) if item.text else 0.0
    if style != "scripts":
        raise ValueError(f"style '{style}' is unknown; there are scripts, maye")
    letters = {char: count for char, count in Counter(item.text).items() if char.isalpha()}
    total = sum(letters.values())
    foreign = sum(count for char, count in letters.items() if script(char) not in scripts)
    return -scale * foreign / total if total else 0.0


@cache
def script(letter: str) -> str:
    """The first word of a letter's Unicode name, which is its script; variants such as ``ℝ`` count as the letter."""
    base = unicodedata.normalize("NFKD", letter)[0]
    return unicodedata.name(base, "").partition(" ")[0]
