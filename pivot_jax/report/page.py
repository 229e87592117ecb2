"""One self-contained HTML page of a :class:`~pivot_jax.report.content.Report`, readable without its script."""

from __future__ import annotations

import re
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

from pivot_jax import files
from pivot_jax.report import format as formats
from pivot_jax.report.content import (
    Cards,
    Column,
    Fact,
    Figure,
    Grid,
    Listing,
    Notices,
    Report,
    Responses,
    Table,
    Value,
)
from pivot_jax.report.data_rows import DataRows
from pivot_jax.report.plots import data_uri

THUMBNAIL = 160  # pixels; smaller images are enlarged to at least this
KINDS = {
    Table: "table",
    Figure: "figure",
    Cards: "cards",
    Responses: "responses",
    Grid: "grid",
    Listing: "listing",
    Notices: "notices",
    DataRows: "data_rows",
    str: "prose",
}


def write(report: Report, path: str | Path) -> Path:
    """Writes the page and returns its path.

    Raises:
      UserError: it could not be written.
    """
    out = Path(path)
    files.write_text(out, render(report))
    return out


def render(report: Report) -> str:
    """The page as text."""
    anchors = _anchors([section.title for section in report.sections])
    text = _template().render(report=report, anchors=anchors)
    return text.encode("utf-8", "backslashreplace").decode()  # half of a character, which an id may hold


@lru_cache(maxsize=1)
def _template() -> Any:
    from jinja2 import Environment, FunctionLoader, StrictUndefined
    from markupsafe import Markup

    loader = FunctionLoader(lambda name: (resources.files("pivot_jax.report") / name).read_text("utf-8"))
    environment = Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined, loader=loader
    )
    environment.filters |= {
        "kind": lambda block: KINDS[type(block)],
        "paragraphs": lambda block: [part.strip() for part in re.split(r"\n\s*\n", block) if part.strip()],
        "cell": _cell,
        "fact": lambda fact: _cell(fact.value, fact),
        "heading_unit": lambda column: formats.shown_unit(column.unit, column.signed),
        "data_uri": lambda image: data_uri(image, least=THUMBNAIL),
        "photo_uri": lambda image: data_uri(image, least=THUMBNAIL, lossy=max(image.shape[:2]) >= THUMBNAIL),
        "visible": lambda piece: piece.replace("\n", "↵\n") or "∅",
        "svg": Markup,  # from plots, which escapes its text
        "tone": _tone,
        "address": _address,
        "has": lambda sections, kind: any(KINDS[type(block)] == kind for one in sections for block in one.blocks),
        "tables": lambda sections: sum(isinstance(block, Table) for one in sections for block in one.blocks),
    }
    return environment.get_template("page.html.jinja")


def _cell(value: Value, like: Column | Fact) -> dict[str, str]:
    main, below = formats.cell(value, unit=like.unit, digits=like.digits, signed=like.signed)
    return {"main": main, "below": below}


def _address(table: Table, row: str, value: Value, column: Column) -> str:
    """Where a cell links to, or ""."""
    if value is None:
        return ""
    if column.link:
        return column.link.format(value)
    return f"#{table.sources[row]}" if row in table.sources else ""


def _tone(value: Value, column: Column) -> str:
    """ "up" or "down" for a difference with an interval that excludes zero, else ""."""
    from pivot_jax.eval.statistics import Interval

    if not column.signed or not isinstance(value, Interval) or not value.excludes_zero:
        return ""
    return "up" if value.value > 0 else "down"


def _anchors(titles: list[str]) -> list[str]:
    """A unique anchor per section."""
    out: list[str] = []
    for title in titles:
        base = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-") or "section"
        name, number = base, 2
        while name in out:
            name, number = f"{base}-{number}", number + 1
        out.append(name)
    return out
