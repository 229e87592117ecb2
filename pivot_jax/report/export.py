"""A report's content for papers and version control: Markdown, tables as CSV and LaTeX, charts as SVG and PNG."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

from pivot_jax import files
from pivot_jax.eval.statistics import Interval
from pivot_jax.report import format as text
from pivot_jax.report.content import Block, Column, Figure, Report, Table, Value
from pivot_jax.report.tables import heading

PIXELS_PER_POINT = 2  # of the PNG files
_LATEX = {character: f"\\{character}" for character in "&%$#_{}"} | {
    "−": "$-$", "β": r"$\beta$", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "\\": r"\textbackslash{}",
}  # fmt: skip


def write(report: Report, folder: Path) -> Path:
    """Writes ``report.md``, ``tables/*.csv`` and ``*.tex``, ``figures/*.svg`` and ``*.png``; returns the first.

    Files of an earlier report with other titles stay.
    """
    lines = [f"# {report.title}", "", *_paragraphs(report.subtitle), *_paragraphs(report.summary)]
    for section in report.sections:
        lines += [f"## {section.title}", "", *_paragraphs(section.text)]
        for name, block in _named(section.blocks, section.title):
            lines += _block(block, name, folder)
    lines += ["## What this does not show", "", *(f"- {line}" for line in report.scope), ""]
    lines += [f"- {key}: {value}" for key, value in report.provenance.items()]
    path = folder / "report.md"
    files.write_text(path, "\n".join(lines) + "\n")
    return path


def _paragraphs(content: str) -> list[str]:
    return [line for part in content.split("\n\n") if part for line in (part, "")]


def _named(blocks: tuple[Block, ...], section: str) -> Iterator[tuple[str, Block]]:
    """Blocks with a file name that no other block of the section has."""
    seen: set[str] = set()
    for block in blocks:
        title = getattr(block, "title", "")
        name = re.sub(r"[^a-z0-9]+", "-", f"{section} {title}".lower()).strip("-")
        unique, number = name, 2
        while unique in seen:
            unique, number = f"{name}-{number}", number + 1
        seen.add(unique)
        yield unique, block


def _block(block: Block, name: str, folder: Path) -> list[str]:
    """The Markdown of a block, whose files are written. Images and listings are on the HTML page only."""
    if isinstance(block, str):
        return _paragraphs(block)
    if isinstance(block, Table):
        files.write_text(folder / "tables" / f"{name}.csv", csv_of(block))
        files.write_text(folder / "tables" / f"{name}.tex", latex_of(block))
        if block.closed:
            return [f"{block.title}: [table](tables/{name}.csv)", ""]
        return [f"### {block.title}", "", *markdown_of(block), "", *_paragraphs(block.note)]
    if isinstance(block, Figure):
        standalone = _standalone(block.svg)
        files.write_text(folder / "figures" / f"{name}.svg", standalone)
        with files.whole(folder / "figures" / f"{name}.png") as partial:
            partial.write_bytes(_png(standalone))
        return [f"### {block.title}", "", f"![{block.title}](figures/{name}.png)", "", *_paragraphs(block.note)]
    return []


def csv_of(table: Table) -> str:
    """One row per row; an interval is three columns, in the unit of the heading."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    wide = [any(isinstance(values[i], Interval) for _, values in table.rows) for i in range(len(table.columns))]
    heads = [heading(column) for column in table.columns]
    ends = [[head, f"{head} low", f"{head} high"] if three else [head] for head, three in zip(heads, wide, strict=True)]
    writer.writerow([table.row_title or "row", *(name for names in ends for name in names)])
    for name, values in table.rows:
        cells: list[str] = []
        for value, column, three in zip(values, table.columns, wide, strict=True):
            found = _plain(value, column)
            cells += [*found, *[""] * (3 - len(found))] if three else found
        writer.writerow([name, *cells])
    return out.getvalue()


def _plain(value: Value, column: Column) -> list[str]:
    factor = 100.0 if column.unit == "%" else 1.0
    if isinstance(value, Interval):
        return [f"{end * factor:.6g}" for end in (value.value, value.low, value.high)]
    if value is None:
        return [""]
    return [f"{value * factor:.6g}" if isinstance(value, float) else str(value)]


def latex_of(table: Table) -> str:
    """A ``tabular`` in the style of booktabs."""
    lines = [
        f"% {table.title}",
        rf"\begin{{tabular}}{{l{'r' * len(table.columns)}}}",
        r"\toprule",
        " & ".join([_escaped(table.row_title), *(_escaped(heading(column)) for column in table.columns)]) + r" \\",
        r"\midrule",
    ]
    for name, values in table.rows:
        cells = [_escaped(" ".join(_cell(value, column)).strip())
                 for value, column in zip(values, table.columns, strict=True)]  # fmt: skip
        lines.append(" & ".join([_escaped(name), *cells]) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def markdown_of(table: Table) -> list[str]:
    """Lines of a pipe table."""
    rows = [[table.row_title, *(heading(column) for column in table.columns)]]
    rows += [
        [name, *(" ".join(_cell(value, column)).strip() for value, column in zip(values, table.columns, strict=True))]
        for name, values in table.rows
    ]
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return [lines[0], "|---" + "|--:" * len(table.columns) + "|", *lines[1:]]


def _cell(value: Value, column: Column) -> tuple[str, str]:
    return text.cell(value, unit=column.unit, digits=column.digits, signed=column.signed)


def _escaped(content: str) -> str:
    return "".join(_LATEX.get(character, character) for character in content)


def _standalone(svg: str) -> str:
    """A chart with the page's light colours in the place of its variables."""
    page = (resources.files("pivot_jax.report") / "page.html.jinja").read_text("utf-8")
    light = page[page.index(":root") : page.index("}", page.index(":root"))]
    colours = dict(re.findall(r"--([\w-]+): ([^;]+);", light)) | {"sans": "DejaVu Sans, sans-serif"}
    return re.sub(r"var\(--([\w-]+)\)", lambda found: colours[found[1]], svg)


def _png(svg: str) -> bytes:
    import matplotlib
    import resvg_py

    font = Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")
    bold = font.with_name("DejaVuSans-Bold.ttf")
    return bytes(
        resvg_py.svg_to_bytes(
            svg_string=svg, background="#ffffff", zoom=PIXELS_PER_POINT, font_files=[str(font), str(bold)]
        )
    )
