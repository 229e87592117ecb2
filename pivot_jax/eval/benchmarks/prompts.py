"""Parts of prompts that several benchmarks and toolkits share."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pivot_jax.data.sources.base import placed
from pivot_jax.eval.benchmarks.base import Item
from pivot_jax.eval.scoring.parse import LETTERS

LETTER = "\nAnswer with the option's letter from the given choices directly."
WORD = "\nAnswer the question using a single word or phrase."


def lettered(choices: Sequence[str]) -> str:
    """Options as lines ``\\nA. first\\nB. second``; a letter whose option is "" is left out."""
    return "".join(f"\n{LETTERS[index]}. {choice}" for index, choice in enumerate(choices) if choice)


def asked(item: Item, text: str) -> str:
    """The text with one ``<image>`` per image of the item before it, unless it says where they go."""
    return placed(text, len(item.images))


def with_tail(tail: str = "") -> Callable[[Item], str]:
    """A prompt: the question, and ``tail`` after it."""
    return lambda item: asked(item, item.question + tail)
