"""Where the answers are in a rendered conversation.

The conversation is rendered a second time with a mark in place of each answer's text. The parts around ``<think>`` and
``</think>`` have marks of their own, because templates drop or move thinking. What this rendering has besides the marks
must be in the first one unchanged and in order, which leaves no doubt where each answer is: nothing is searched for.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from pivot_jax.data.example import Message
from pivot_jax.errors import UserError

_MARK = "\ufdd0{}\ufdd1"  # of Unicode's noncharacters, which no text has
_MARKS = re.compile("\ufdd0([0-9]{1,6})\ufdd1")
CHANGED = "the chat template changes the text of an answer, so it cannot be scored"
_THINKING = re.compile(r"(</?think>)")


@dataclass(frozen=True)
class _Part:
    """A text of an answer between its tags; ``before`` and ``after``: the tags around it if there is no other text."""

    number: int
    text: str
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()


def answer_spans(
    messages: Sequence[Message], text: str, render: Callable[[Sequence[Message]], str]
) -> list[tuple[int, int]]:
    """First character and end of each answer in ``text``, which ``render`` makes of ``messages``.

    Raises:
      UserError: an answer is not in the rendering as it is, apart from white space around it and its tags, and from
        thinking of earlier answers.
    """
    marked: list[Message] = []
    answers: list[list[_Part]] = []
    for message in messages:
        if message.role == "assistant":
            content, parts = _marked(message.content, sum(map(len, answers)))
            message = replace(message, content=content)
            answers.append(parts)
        marked.append(message)
    rendering = _MARKS.split(render(marked))
    found = _places(rendering, [part for parts in answers for part in parts], text)
    spans = []
    for parts in answers:
        there = [part for part in parts if part.number in found]
        if not there or there[-1] != parts[-1]:
            raise UserError("the chat template leaves out the end of an answer")
        if parts is answers[-1] and there != parts:
            raise UserError("the chat template leaves out the thinking of the last answer")
        spans.append(_span(text, found[there[0].number][0], found[there[-1].number][1], there))
    return spans


def _marked(text: str, number: int) -> tuple[str, list[_Part]]:
    """An answer with marks from ``number`` on in place of its words; tags and white space stay."""
    pieces = _THINKING.split(text)
    filled = [index for index in range(0, len(pieces), 2) if pieces[index].strip()]
    parts: list[_Part] = []
    for index in filled:
        core = pieces[index].strip()
        before = tuple(pieces[1:index:2][::-1]) if index == filled[0] else ()
        after = tuple(pieces[index + 1 :: 2]) if index == filled[-1] else ()
        parts.append(_Part(number + len(parts), core, before, after))
        pieces[index] = pieces[index].replace(core, _MARK.format(parts[-1].number))
    return "".join(pieces), parts


def _span(text: str, start: int, end: int, parts: Sequence[_Part]) -> tuple[int, int]:
    """An answer from its first word to its last, with its own tags, and spaces before it."""
    for tag in parts[0].before:
        if (head := text[:start].rstrip()).endswith(tag):
            start = len(head) - len(tag)
    for tag in parts[-1].after:
        if (tail := text[end:].lstrip()).startswith(tag):
            end = len(text) - len(tail) + len(tag)
    return len(text[:start].rstrip(" \t")), end


def _places(rendering: list[str], parts: Sequence[_Part], text: str) -> dict[int, tuple[int, int]]:
    """Where in ``text`` the parts are; ``rendering``: the one with marks, as fixed text, number, fixed text, …"""
    found: dict[int, tuple[int, int]] = {}
    position = 0
    for fixed, mark in zip(rendering[::2], [*rendering[1::2], ""], strict=True):
        if not text.startswith(fixed, position):
            raise UserError(CHANGED)
        position += len(fixed)
        if mark:
            number = int(mark)
            in_order = max(found, default=-1) < number < len(parts)
            if not in_order or not text.startswith(parts[number].text, position):
                raise UserError(CHANGED)
            found[number] = position, position + len(parts[number].text)
            position = found[number][1]
    if position != len(text):
        raise UserError(CHANGED)
    return found
