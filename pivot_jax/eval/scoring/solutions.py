r"""The final answer of a worked solution: in ``\boxed{}``, after "answer is", or its last line."""

from __future__ import annotations

import re

from pivot_jax.eval.scoring import parse

_WRAPPER = re.compile(r"\\(?:text|textbf|mathrm|mathbf)\{([^{}]*)\}")
_BETWEEN = re.compile(r"[\s$]*(?:,|,?\s*(?:and|or|\\text\{\s*(?:and|or)\s*\}))[\s$]*")


def final_answer(text: str) -> str:
    """The answer of a worked solution: the last ``\\boxed{}``, else the text after "answer is", else the last line."""
    boxed = parse.boxed(text)
    if boxed:
        return _WRAPPER.sub(r"\1", boxed[-1].content).strip()
    lowered = (text or "").lower()
    for marker in ("answer is", "answer:"):
        if marker in lowered:
            rest = (text or "")[lowered.rindex(marker) + len(marker) :].strip(" :\n*")
            return rest.splitlines()[0].rstrip(".").strip() if rest else ""
    return last_line(text).rstrip(".").strip()


def last_line(text: str) -> str:
    """The last line that is not blank."""
    lines = [line.strip() for line in (text or "").splitlines() if line.strip()]
    return lines[-1] if lines else ""


def boxed(text: str) -> str:
    r"""Content of the last closed ``\boxed{}``; "" where there is none.

    Boxes that a comma, "and" or "or" joins are one answer, so that naming several values never counts as the right
    one: ``\boxed{3} or \boxed{5}`` is "3, 5".
    """
    boxes = parse.boxed(text)
    if not boxes:
        return ""
    last = [boxes[-1]]
    for box in reversed(boxes[:-1]):
        between = text[box.end : last[-1].start]
        if len(between) > 40 or not _BETWEEN.fullmatch(between):
            break
        last.append(box)
    return ", ".join(dict.fromkeys(box.content.strip() for box in reversed(last)))
