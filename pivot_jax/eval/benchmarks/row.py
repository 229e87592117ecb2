"""One published row of a benchmark, with its place in the file for messages."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pivot_jax.errors import RowError
from pivot_jax.eval.benchmarks import cells
from pivot_jax.eval.benchmarks.cells import EMPTY, is_missing
from pivot_jax.eval.benchmarks.image_cells import REFERENCE


@dataclass(frozen=True)
class Row:
    """A row as it was published.

    Attributes:
      values: cells by column.
      id: of the question; no other row of the file has it.
      name: file, line and id, for messages.
      pictures: column → the images in it.
    """

    values: Mapping[str, Any]
    id: str
    name: str
    pictures: Callable[[str], tuple[Any, ...]]

    def text(self, column: str, missing: Collection[str] = EMPTY) -> str:
        """The cell's text as it is.

        Raises:
          RowError: the cell is empty, or a list or an object.
        """
        if found := self.optional(column, missing):
            return found
        fix = "fill it in" if column in self.values else f"name the file that has it (here: {', '.join(self.values)})"
        raise RowError(self.name, f"column '{column}' is {'empty' if column in self.values else 'missing'}; {fix}")

    def optional(self, column: str, missing: Collection[str] = EMPTY) -> str:
        """As :meth:`text`; "" for an empty cell, a text in ``missing``, and a column that is not there."""
        value = self.values.get(column)
        if is_missing(value, missing):
            return ""
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise RowError(
                self.name, f"column '{column}' is {type(value).__name__}, not text; write a text or a number"
            )
        return str(value)

    def texts(self, column: str) -> tuple[str, ...]:
        """The texts of a column that holds a list of them, or one.

        Raises:
          RowError: the cell is empty, or its list holds something else.
        """
        value = self.values.get(column)
        if not isinstance(value, list | tuple):
            return (self.text(column),)
        if wrong := [one for one in value if isinstance(one, bool) or not isinstance(one, str | int | float)]:
            raise RowError(self.name, f"column '{column}' holds {cells.shown(wrong[0])}; write a list of texts")
        return tuple(map(str, value))

    def fields(self, *columns: str) -> dict[str, Any]:
        """The columns that have a value, for :attr:`Item.fields`; a ``-`` in a name is written ``_``."""
        return {
            column.replace("-", "_"): self.values[column]
            for column in columns
            if not is_missing(self.values.get(column))
        }

    def images(self, *columns: str) -> tuple[Any, ...]:
        """The images of the columns (``image`` where none is named), one after the other; empty cells have none.

        Raises:
          RowError: a cell that holds no image, or as :class:`image_cells.TsvImages`.
        """
        return tuple(image for column in columns or ("image",) for image in self.pictures(column))

    def image_row(self) -> str:
        """Id of the row that holds this row's image; in VLMEvalKit's TSV, questions about one image share it."""
        cell = self.values.get("image")
        return self.id if is_missing(cell) or len(str(cell)) > REFERENCE else str(cell)

    def options(self, column: str = "", missing: Collection[str] = EMPTY) -> tuple[str, ...]:
        """The options in letter order, as :func:`cells.options`; "" for a letter that an empty column leaves out."""
        found = cells.options(self.values, self.name, column, missing)
        last = max(found, default="")
        return tuple(found.get(letter, "") for letter in cells.LETTERS if letter <= last)

    def letter(self, choices: Sequence[str], form: str, column: str = "answer") -> str:
        """The letter of the right option, as :func:`cells.letter_answer`; a letter that is left out is none."""
        known = {letter: text for letter, text in zip(cells.LETTERS, choices, strict=False) if text}
        return cells.letter_answer(self.values.get(column), known, self.name, form, column)
