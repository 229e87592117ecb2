"""Questions and facts of easy-VQA as rows of the project's formats, in an order that only seed and content decide."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pivot_jax.data.draws import draw
from pivot_jax.data.easy_vqa.questions import Question

# What a caption says of a blue circle. The text tower of stage 0 sees each of them.
CAPTIONS = (
    "a {color} {shape}",
    "one {color} {shape}",
    "a {color} {shape} on a light background",
    "the shape is a {shape} and its color is {color}",
    "an image of a {color} {shape}",
)


def class_name(fact: tuple[str, str]) -> str:
    """The class of an image that shows ``fact`` = color, shape: "blue circle"."""
    return " ".join(fact)


def ordered(questions: Iterable[Question], seed: int) -> list[Question]:
    """The questions in an order drawn from seed, image and text: a prefix of it is a random sample."""
    return sorted(questions, key=lambda one: (draw(seed, "order", one.id, one.text), one.id))


def vqa_row(question: Question, image: str) -> dict[str, Any]:
    """A training row in LLaVA's format; ``kind`` is a field beside it."""
    turns = [("human", f"<image>\n{question.text}"), ("gpt", question.answer)]
    return {
        "id": question.id,
        "image": image,
        "kind": question.kind,
        "conversations": [{"from": speaker, "value": text} for speaker, text in turns],
    }


def pair_row(question: Question, image: str, seed: int) -> dict[str, Any]:
    """A preference pair in TRL's format: the right answer and a wrong one of the same kind.

    SFT reads its chosen answer, and online RL its question with ``chosen`` as the answer that is rewarded.
    """
    rejected = question.others[draw(seed, "rejected", question.id, question.text) % len(question.others)]
    return {
        "id": question.id,
        "images": [image],
        "kind": question.kind,
        "prompt": question.text,
        "chosen": question.answer,
        "rejected": rejected,
    }


def test_row(question: Question, image: str) -> dict[str, Any]:
    """A question of the benchmark ``easy-vqa``; questions of one unit are about one image."""
    return {
        "id": question.id,
        "image": image,
        "question": question.text,
        "answer": question.answer,
        "kind": question.kind,
    }


def caption_row(image: int, copy: int, fact: tuple[str, str], path: str, seed: int, *, label: bool) -> dict[str, Any]:
    """A row in LLaVA's format of an image, or of its copy (0: the image itself), that shows ``fact`` = color, shape.

    Its caption is one of :data:`CAPTIONS`, or with ``label`` its :func:`class_name` (the supervised stage 0).
    """
    form = CAPTIONS[draw(seed, "caption", image, copy) % len(CAPTIONS)]
    text = class_name(fact) if label else form.format(color=fact[0], shape=fact[1])
    turns = [("human", "<image>"), ("gpt", text)]
    return {
        "id": f"train-image-{image}" + (f"-copy-{copy}" if copy else ""),
        "image": path,
        "conversations": [{"from": speaker, "value": text} for speaker, text in turns],
    }
