r"""Format of a completion: tags around thoughts and answer, a boxed answer. Every check is linear in the text."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from pivot_jax.eval.scoring import parse
from pivot_jax.rl.rewards.completion import Completion

OPEN, CLOSE = "<think>", "</think>"


def format(
    item: Completion, *, style: Literal["think_answer", "think", "think_boxed", "boxed", "maye"] = "think_answer"
) -> float:
    r"""1 where the completion has the format, else 0.

    Args:
      style: ``think_answer``: the whole text is ``<think>…</think><answer>…</answer>``, each tag once (DeepSeek-R1).
        ``think``: it begins with ``<think>…</think>``, each tag once, and more text follows. ``think_boxed``: as
        ``think``, and a closed ``\boxed{}`` follows (verl's geo3k). ``boxed``: exactly one closed ``\boxed{}``.
        ``maye``: exactly one ``<think>…</think>`` anywhere (MAYE's ``format_reward_fn``; the other tags do not count).
    """
    if style not in STYLES:
        raise ValueError(f"style '{style}' is unknown; there are {', '.join(STYLES)}")
    return float(STYLES[style](item.text))


def think(text: str) -> bool:
    """See ``think`` of :func:`format`."""
    return _after_thoughts(text) not in (None, "")


def think_answer(text: str) -> bool:
    """See ``think_answer`` of :func:`format`."""
    rest = _after_thoughts(text) or ""
    tags = ("<answer>", "</answer>")
    return rest.startswith(tags[0]) and rest.endswith(tags[1]) and all(text.count(tag) == 1 for tag in tags)


def think_boxed(text: str) -> bool:
    """See ``think_boxed`` of :func:`format`."""
    return bool(parse.boxed(_after_thoughts(text) or ""))


def one_box(text: str) -> bool:
    """See ``boxed`` of :func:`format`."""
    return len(parse.boxed(text)) == 1


def maye(text: str) -> bool:
    """Exactly one match of ``<think>.*?</think>`` with dots that match newlines.

    Searched without the regular expression, whose time is quadratic in the number of tags that are never closed.
    """
    count, at = 0, 0
    while (start := text.find(OPEN, at)) >= 0 and (end := text.find(CLOSE, start + len(OPEN))) >= 0:
        count, at = count + 1, end + len(CLOSE)
    return count == 1


STYLES: dict[str, Callable[[str], bool]] = {
    "think_answer": think_answer,
    "think": think,
    "think_boxed": think_boxed,
    "boxed": one_box,
    "maye": maye,
}


def _after_thoughts(text: str) -> str | None:
    """What follows ``<think>…</think>`` at the beginning, without blanks around it; None where it does not begin so."""
    text = text.strip()
    if not text.startswith(OPEN) or text.count(OPEN) != 1 or text.count(CLOSE) != 1:
        return None
    return text.partition(CLOSE)[2].strip()
