"""Tables and trees on standard output: with frames on a terminal, plain text of a fixed width elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

PLAIN_WIDTH = 200  # characters, where the output is not a terminal: no line is wrapped


def console() -> Console:
    from rich.console import Console

    found = Console()
    return found if found.is_terminal else Console(width=PLAIN_WIDTH)


def table(*columns: str, title: str = "") -> Table:
    """A table with its first column aligned left and the others right; print it with :func:`console`."""
    from rich import box
    from rich.table import Table

    frame = box.ROUNDED if console().is_terminal else None
    made = Table(box=frame, title=title or None, title_justify="left")
    for index, column in enumerate(columns):
        made.add_column(column, justify="right" if index else "left", no_wrap=True)
    return made


def interval(low: float, high: float) -> Text:
    """Bounds of a share in percent."""
    from rich.text import Text

    return Text(f"[{100 * low:.2f}, {100 * high:.2f}]")
