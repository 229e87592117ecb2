"""The page shows all its content, escaped, without external resources, and is deterministic."""

from __future__ import annotations

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image

from pivot_jax.eval.statistics import Interval
from pivot_jax.report import format as text
from pivot_jax.report import page, plots, tables
from pivot_jax.report.content import Column, Report, Section, Table
from tests.report.reader import read
from tests.report.sample import ARMS, metric_rows, sample


@pytest.fixture(scope="module")
def rendered():
    return page.render(sample())


def test_self_contained_and_well_formed(rendered):
    reader = read(rendered)
    assert "@import" not in rendered and not re.findall(r"url\((?!#)", rendered)
    assert rendered.count("<script") == 1 and rendered.rindex("<script>") > rendered.rindex("</main>")  # ours alone
    assert all(source.startswith("data:image/png;base64,") for source in reader.sources)
    assert all(link.startswith("#") for link in reader.links)
    assert len(reader.ids) == len(set(reader.ids))
    assert {link[1:] for link in reader.links} <= set(reader.ids)


def test_content_is_escaped(rendered):
    assert "&lt;red&gt; &amp; round" in rendered and "<red>" not in rendered
    assert "&lt;why&gt;" in rendered


def test_everything_is_there(rendered):
    for arm in ARMS:
        assert arm in rendered
    for piece in ("What this run does not show", "energy 0.30", "Correct answer: red", "3 min 07 s", "3f2a9c41"):
        assert piece in rendered
    assert rendered.count("<article") == 6 and rendered.count("<svg") == 4


def test_same_report_same_page(rendered):
    assert page.render(sample()) == rendered


def test_charts_follow_the_theme(rendered):
    charts = re.findall(r"<svg.*?</svg>", rendered, re.DOTALL)
    for chart in charts:
        colours = set(re.findall(r"#[0-9a-f]{6}\b", chart)) - {"#ffffff"}
        assert not colours, colours
        assert "var(--ink)" in chart and 'role="img"' in chart and "DejaVu" not in chart
    named = set(re.findall(r"var\((--\w+)\)", rendered))
    assert named <= set(re.findall(r"(--\w+):", rendered))


def test_significant_differences_are_marked(rendered):
    up = re.findall(r'<td class="up"><span class="main">([^<]*)', rendered)
    down = re.findall(r'<td class="down"><span class="main">([^<]*)', rendered)
    assert up == ["+3.4", "+4.6"] and down == ["−3.1", "−6.5"]


def test_a_failed_write_keeps_the_old_page(tmp_path, monkeypatch):
    out = page.write(Report("One"), tmp_path / "deep" / "report.html")
    first = out.read_text()
    assert "<h1>One</h1>" in first and [file.name for file in out.parent.iterdir()] == ["report.html"]
    monkeypatch.setattr(page, "render", lambda report: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        page.write(Report("Two"), out)
    assert out.read_text() == first


def test_sections_of_the_same_name_get_their_own_anchors():
    reader = read(page.render(Report("x", sections=(Section("Same"), Section("Same"), Section("é?")))))
    assert [name for name in reader.ids if name.startswith(("same", "section"))] == ["same", "same-2", "section"]


def test_rows_must_fit_their_columns():
    with pytest.raises(ValueError, match="row 'a': 2 values, 1 columns"):
        Table("t", (Column("x"),), (("a", (1, 2)),))


# Numbers -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "options", "shown"),
    [
        (0.6731, {"unit": "%"}, ("67.3", "")),
        (Interval(0.5, 0.45, 0.55), {"unit": "%"}, ("50.0", "[45.0, 55.0]")),
        (Interval(-0.02, -0.05, 0.01), {"unit": "%", "signed": True}, ("−2.0", "[−5.0, +1.0]")),
        (-0.0001, {"unit": "%", "signed": True}, ("0.0", "")),
        (12345, {}, ("12\u2009345", "")),
        (None, {}, ("–", "")),
        (float("nan"), {}, ("–", "")),
        (1, {"unit": "%"}, ("100.0", "")),
    ],
)
def test_cells(value, options, shown):
    assert text.cell(value, **options) == shown


def test_times_and_counts():
    assert [text.duration(s) for s in (4.21, 42, 60, 185, 7800)] == [
        "4.2 s",
        "42 s",
        "1 min 00 s",
        "3 min 05 s",
        "2 h 10 min",
    ]
    assert [text.si(x) for x in (0, 999.6, 1234, 4131840, 2.17e13)] == ["0.00", "1.00 k", "1.23 k", "4.13 M", "21.7 T"]
    assert [text.p_value(p) for p in (0.0004, 0.0312)] == ["< 0.001", "0.031"]


def test_tables_for_terminals():
    table = tables.scores("Scores", {"SFT": {"VQA": Interval(0.5, 0.4, 0.6)}, "DPO": {"Seg": 0.25}})
    lines = tables.plain(table).splitlines()
    assert lines[1].split() == ["Encoder", "VQA", "(%)", "Seg", "(%)"]
    assert lines[3].split() == ["SFT", "50.0", "[40.0,", "60.0]", "–"] and lines[4].split() == ["DPO", "–", "25.0"]


# Charts --------------------------------------------------------------------------------------------------------------


def test_arms_keep_their_colour():
    alone = plots.training_curves({"DPO": [metric_rows(1, 0)]}, ("loss",), order=ARMS)
    assert "var(--s3)" in alone and "var(--s0)" not in alone
    assert plots.training_curves({"DPO": [metric_rows(1, 0)]}, ("loss",), order=ARMS) == alone


def test_curves_skip_metrics_that_no_run_has():
    chart = plots.training_curves({"SFT": [metric_rows(0, 0)]}, ("loss", "rewards/margins"))
    assert ">loss<" in chart and "rewards" not in chart
    with pytest.raises(ValueError, match="no run has any of the metrics rewards/margins"):
        plots.training_curves({"SFT": [metric_rows(0, 0)]}, ("rewards/margins",))


def test_images_are_unchanged():
    image = np.random.default_rng(0).integers(0, 255, (5, 7, 3), dtype=np.uint8)
    decoded = np.asarray(Image.open(io.BytesIO(base64.b64decode(plots.data_uri(image, least=20).split(",")[1]))))
    assert decoded.shape == (15, 21, 3) and np.array_equal(decoded[::3, ::3], image)
    with pytest.raises(ValueError, match="uint8"):
        plots.data_uri(image.astype(float))
