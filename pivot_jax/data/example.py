"""Rows before tokenisation: messages of text with image placeholders, and references to the images."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Message:
    """One turn. ``content`` holds ``<image>`` once per image, where the image goes."""

    role: str  # "system" | "user" | "assistant"
    content: str


@dataclass(frozen=True)
class Example:
    """One source row in the common form, before tokenisation.

    Conversation rows end with an assistant turn. Preference rows end with a user turn, and ``chosen`` and
    ``rejected`` are the two answers; a single answer with a label is one of them, and the other is None. Evaluation
    rows end with a user turn and have neither. ``mismatched`` is an answer to the prompt of another row (KTO).
    A visual pair has one answer, ``chosen``, that is compared under two images: the last ``images_rejected`` of
    ``images`` are those that take the place of the others on the rejected side.
    ``images`` are file paths, encoded bytes, or uint8 arrays [height, width, 3].
    """

    id: str
    messages: tuple[Message, ...]
    images: tuple[Any, ...] = ()
    chosen: str | None = None
    rejected: str | None = None
    extra: dict[str, Any] = field(default_factory=dict)  # answer, choices, category, mask, ...
    mismatched: str | None = None
    images_rejected: int = 0
