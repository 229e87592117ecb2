"""MAYE's prompts for online RL: JSON Lines of ``{question, answer, solution, id, image}``."""

from __future__ import annotations

from typing import Any

from pivot_jax.data.example import Example, Message
from pivot_jax.data.sources.base import ImageRoot, Mapped, Source, root_of, rooted, with_images
from pivot_jax.data.sources.rows import need, open_rows
from pivot_jax.errors import RowError

# The request that ends every question in MAYE's released runs (its CHAT_COT_PROMPT).
CHAT_SUFFIX = (
    "\nSolve the above mathematics problem, write out the solution process according to the question, and use the same "
    "LaTeX format as the question in the solution process. Please display the final answer in the format \\boxed{}."
)
_KNOWN = ("id", "image", "question")


def maye(path: Any, image_root: str | ImageRoot | None = None, suffix: str = CHAT_SUFFIX) -> Source:
    """MAYE's rows as prompts; ``suffix`` is added to every question, "" for none.

    ``solution`` holds the boxed answer, with or without its derivation; MAYE's judge reads it. ``solution``, ``answer``
    and all other fields go to ``Example.extra``. An ``<image>`` that a question begins with is where its image goes;
    MAYE's own code keeps it as literal text beside the image.
    """
    root = root_of(path, image_root)

    def convert(row: dict[str, Any], row_id: str) -> Example:
        if row.get("solution") is None and row.get("answer") is None:
            raise RowError(row_id, "fields 'solution' and 'answer' are both missing; one is needed to judge an answer")
        images = rooted(row.get("image"), root, row_id)
        text = with_images(need(row, "question", str, row_id) + suffix, len(images))
        extra = {key: value for key, value in row.items() if key not in _KNOWN}
        return Example(row_id, (Message("user", text),), images, extra=extra)

    return Mapped(open_rows(path), convert, f"maye|{root}|{suffix}")
