"""Flat question-answer files: one question, its answer or its chosen and rejected answers, and image paths."""

from __future__ import annotations

from typing import Any

from pivot_jax.data.example import Example, Message
from pivot_jax.data.sources.base import ImageRoot, Mapped, Source, listed, root_of, rooted, with_images
from pivot_jax.data.sources.llava import preference_example
from pivot_jax.data.sources.rows import need, open_rows
from pivot_jax.errors import RowError

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
# Cambrian's ScienceQA prompt (its evaluation code).
SCIENCEQA_TAIL = "\nPlease answer directly with only the letter of the correct option and nothing else."


def scienceqa(path: Any, image_root: str | ImageRoot | None = None) -> Source:
    """ScienceQA rows ``{id, image, question, choices, hint, answer}``; the answer is a letter (or a choice's index).

    The prompt is ``[hint ]question\\nA. ...\\nB. ...`` and the request for the letter, as Cambrian evaluates it.
    """
    root = root_of(path, image_root)
    return Mapped(open_rows(path), lambda row, row_id: scienceqa_example(row, row_id, root), f"scienceqa|{root}")


def scienceqa_example(row: dict[str, Any], row_id: str, image_root: ImageRoot) -> Example:
    question = need(row, "question", str, row_id)
    choices = _choices({"choices": need(row, "choices", (list, tuple), row_id)}, "choices", row_id)
    answer = need(row, "answer", (str, int), row_id)
    letter = LETTERS[answer] if isinstance(answer, int) and 0 <= answer < len(choices) else str(answer)
    if letter not in LETTERS[: len(choices)]:
        raise RowError(row_id, f"answer {answer!r} names none of the {len(choices)} choices")
    hint = need(row, "hint", str, row_id).strip() if row.get("hint") is not None else ""
    text = f"{hint} {question}" if hint else question
    images = rooted(row.get("image"), image_root, row_id)
    messages = (
        Message("user", with_images(text + _lettered(choices) + SCIENCEQA_TAIL, len(images))),
        Message("assistant", letter),
    )
    extra = {**{k: v for k, v in row.items() if k not in ("id", "image", "question")}, "answer": letter}
    return Example(row_id, messages, images, extra={**extra, "choices": choices})


def preference_pairs(path: Any, image_root: str | ImageRoot | None = None, question_key: str = "question") -> Source:
    """Rows ``{id, image, question, chosen, rejected}``; ``<image1>`` in the question marks where the image goes."""
    root = root_of(path, image_root)

    def convert(row: dict[str, Any], row_id: str) -> Example:
        return preference_example(row, row_id, root, question_key)

    return Mapped(open_rows(path), convert, f"preference_pairs|{root}|{question_key}")


def qa(
    path: Any,
    image_root: str | ImageRoot | None = None,
    question_key: str = "question",
    answer_key: str = "answer",
    image_key: str = "image",
    id_key: str = "id",
    suffix: str = "",
    choices_key: str = "",
) -> Source:
    """Any flat question-answer file, its fields named in the config; ``suffix`` is added to every question.

    ``choices_key`` names a list of options, which follow the question as ``A. ...`` (before the suffix) and are
    ``extra["choices"]``. Options that are only the letters name parts of the image and are not repeated.

    A row without an answer is a prompt to be answered. Its answer and the fields not named go to ``Example.extra``.
    """
    root, rows = root_of(path, image_root), open_rows(path)

    def convert(row: dict[str, Any], row_id: str) -> Example:
        images = rooted(listed(row.get(image_key)), root, row_id)
        choices = _choices(row, choices_key, row_id)
        options = "" if choices == list(LETTERS[: len(choices)]) else _lettered(choices)
        question = with_images(need(row, question_key, str, row_id) + options + suffix, len(images))
        messages = [Message("user", question)]
        if row.get(answer_key) is not None:
            messages.append(Message("assistant", str(row[answer_key])))
        extra = {k: v for k, v in row.items() if k not in (id_key, image_key)}
        if answer_key in row:
            extra["answer"] = row[answer_key]
        if choices_key:
            extra["choices"] = choices
        return Example(row_id, tuple(messages), images, extra=extra)

    settings = [str(root), question_key, answer_key, image_key, suffix, *([choices_key] if choices_key else [])]
    return Mapped(rows, convert, "|".join(["qa", *settings]), id_key)


def _choices(row: dict[str, Any], key: str, row_id: str) -> list[str]:
    """The options of a row; it may have none."""
    if not key or row.get(key) is None:
        return []
    choices = [str(choice) for choice in need(row, key, (list, tuple), row_id)]
    if len(choices) > len(LETTERS):
        raise RowError(row_id, f"{len(choices)} choices are more than there are letters")
    return choices


def _lettered(choices: list[str]) -> str:
    return "".join(f"\n{LETTERS[i]}. {choice}" for i, choice in enumerate(choices))
