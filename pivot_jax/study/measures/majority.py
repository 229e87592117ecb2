"""The language prior: the most frequent answer to a question in the training data."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path

from pivot_jax.data import scenes
from pivot_jax.data.scenes.language import IN_A_SENTENCE
from pivot_jax.study.data import scenes_folder


def majority_answers(data: Path) -> Callable[[str], str]:
    """Question → most frequent short answer to it in the split ``vqa``, or else to questions of its kind.

    A model without the image can do better only by generalising between questions.
    """
    exact: dict[str, Counter[str]] = defaultdict(Counter)
    similar: dict[str, Counter[str]] = defaultdict(Counter)
    for record in scenes.open_split(scenes_folder(data), "vqa", images=False):
        turns = json.loads(record["conversations"])
        for asked, given in zip(turns[::2], turns[1::2], strict=True):
            text = asked["value"].removeprefix("<image>\n")
            if not text.endswith(IN_A_SENTENCE):
                exact[text][given["value"]] += 1
                similar[_beginning(text)][given["value"]] += 1

    def answer(question: str) -> str:
        text = question.removeprefix("<image>\n")
        found = exact.get(text) or similar.get(_beginning(text))
        return found.most_common(1)[0][0] if found else ""

    return answer


def _beginning(question: str) -> str:
    """The first two words, which identify the kind of question."""
    return " ".join(question.split()[:2])
