"""Reports as Markdown, CSV, LaTeX, SVG and PNG."""

from __future__ import annotations

import csv
import io

import numpy as np
from PIL import Image

from pivot_jax.eval.statistics import Interval
from pivot_jax.report import export, plots
from pivot_jax.report.content import Column, Figure, Report, Section, Table

TABLE = Table(
    "Scores & more",
    (Column("accuracy", "%"), Column("Δ", "%", signed=True), Column("note")),
    (
        ("SFT_1", (Interval(0.5, 0.4, 0.6), Interval(-0.02, -0.05, 0.01), "50 %")),
        ("DPO|x", (Interval(0.75, 0.7, 0.8), None, None)),
    ),
    "A note.",
    "Arm",
)


def test_csv_has_the_ends_of_intervals_in_the_unit_of_the_heading():
    first, second, third = csv.reader(io.StringIO(export.csv_of(TABLE)))
    interval = ["accuracy (%)", "accuracy (%) low", "accuracy (%) high", "Δ (pts)", "Δ (pts) low", "Δ (pts) high"]
    assert first == ["Arm", *interval, "note"]
    assert second == ["SFT_1", "50", "40", "60", "-2", "-5", "1", "50 %"]
    assert third == ["DPO|x", "75", "70", "80", "", "", "", ""]


def test_latex_escapes_and_ends_its_rows():
    lines = export.latex_of(TABLE).splitlines()
    assert lines[1] == r"\begin{tabular}{lrrr}"
    assert lines[5] == r"SFT\_1 & 50.0 [40.0, 60.0] & $-$2.0 [$-$5.0, +1.0] & 50 \% \\"
    assert lines[-1] == r"\end{tabular}"


def test_markdown_escapes_its_separator():
    lines = export.markdown_of(TABLE)
    assert lines[1] == "|---|--:|--:|--:|" and lines[3].startswith("| DPO\\|x | 75.0 [70.0, 80.0] | – | – |")


def test_a_report_is_written_with_its_figures(tmp_path):
    chart = plots.lines({"SFT": ([1, 2], [3, 4]), "DPO": ([1, 2], [4, 6])}, xlabel="x", ylabel="y")
    blocks = (TABLE, TABLE, Figure("A chart", chart, "Below."))
    path = export.write(
        Report("Title", "Sub", summary="One.\n\nTwo.", sections=(Section("Part", "About.", blocks),)), tmp_path
    )
    text = path.read_text()
    assert text.startswith("# Title\n\nSub\n\nOne.\n\nTwo.\n\n## Part\n\nAbout.\n")
    assert "![A chart](figures/part-a-chart.png)" in text
    names = sorted(file.relative_to(tmp_path).as_posix() for file in tmp_path.rglob("*") if file.is_file())
    tables = [f"tables/part-scores-more{number}.{kind}" for number in ("-2", "") for kind in ("csv", "tex")]
    assert names == ["figures/part-a-chart.png", "figures/part-a-chart.svg", "report.md", *tables]
    assert "var(--" not in (tmp_path / "figures" / "part-a-chart.svg").read_text()
    pixels = np.asarray(Image.open(tmp_path / "figures" / "part-a-chart.png").convert("RGB"))
    assert pixels.shape[1] > 800 and (pixels[0, 0] == 255).all() and (pixels < 100).any()
