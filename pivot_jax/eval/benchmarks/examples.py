"""Questions from any data source of the project: what trains a model can also be asked."""

from __future__ import annotations

from pivot_jax.data.example import Example
from pivot_jax.data.sources.base import Source
from pivot_jax.errors import RowError
from pivot_jax.eval.benchmarks.base import Item


class AsItems:
    """The examples of a data source as questions; the last user turn is what is asked.

    Args:
      category, unit: fields of an example that are its category and its unit; "": there is none.
    """

    def __init__(self, source: Source, *, category: str = "", unit: str = ""):
        self.source, self.category, self.unit = source, category, unit

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Item:
        return item_of(self.source[index], category=self.category, unit=self.unit)


def item_of(example: Example, *, category: str = "", unit: str = "") -> Item:
    """The question of one example.

    The correct answer is the field ``answer`` (a text, or a list of accepted texts), or else the last assistant turn.

    Raises:
      RowError: neither of them, or no user turn.
    """
    answered = example.messages[-1].role == "assistant"
    turns = example.messages[:-1] if answered else example.messages
    if not turns or turns[-1].role != "user":
        raise RowError(example.id, "no user turn to be answered; a question ends with one, or with one and its answer")
    accepted = example.extra.get("answer", example.messages[-1].content if answered else None)
    if accepted in (None, [], ""):
        raise RowError(example.id, "no answer to compare with; give the row a field 'answer', or an assistant turn")
    return Item(
        example.id,
        turns[-1].content,
        example.images,
        choices=tuple(map(str, example.extra.get("choices") or ())),
        answers=tuple(map(str, accepted if isinstance(accepted, (list, tuple)) else [accepted])),
        category=str(example.extra.get(category, "")) if category else "",
        unit=example.extra.get(unit) if unit else None,
        fields=example.extra.get("fields") or {},
        context=turns[:-1],
    )
