"""Charts as SVG in the page's light or dark theme, and images as data URIs.

A chart is drawn with placeholder colours, which are then replaced by the page's CSS variables. So one drawing works on
both backgrounds. Series differ in colour (Okabe–Ito, safe for colour-blind readers), line style and marker.
"""

from __future__ import annotations

import base64
import hashlib
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from pivot_jax.eval.statistics import Interval

SERIES = 7  # distinct series colours; --s0 ... --s6 in the page
_INK, _MUTED, _GRID = "#010101", "#020202", "#030303"
_STANDINS = {_INK: "--ink", _MUTED: "--muted", _GRID: "--rule"} | {f"#0404{i:02x}": f"--s{i}" for i in range(SERIES)}
_LINES: Any = ("-", "--", "-.", ":", (0, (5, 1)), (0, (1, 1)), (0, (3, 1, 1, 1)))
_MARKERS = "osD^vPX"
_STYLE: Any = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": _INK,
    "axes.edgecolor": _GRID,
    "axes.labelcolor": _MUTED,
    "axes.titlecolor": _INK,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _GRID,
    "grid.linewidth": 0.6,
    "xtick.color": _GRID,
    "ytick.color": _GRID,
    "xtick.labelcolor": _MUTED,
    "ytick.labelcolor": _MUTED,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
}

Rows = Sequence[Mapping[str, Any]]


def training_curves(
    runs: Mapping[str, Sequence[Rows]],
    metrics: Sequence[str],
    *,
    order: Sequence[str] = (),
    smooth: float = 0.6,
    columns: int = 3,
) -> str:
    """Small multiples, one per metric: the runs (seeds) of an arm in faint lines, their mean in a bold one.

    Args:
      runs: arm → its runs, each the rows of a metrics file. metrics: keys of the rows ("loss", "rewards/margins").
      order: all arms of the study, so that an arm has the same colour in every chart.
      smooth: weight of the past in an exponential moving average; 0 shows the raw values.
    """
    shown = [metric for metric in metrics if any(metric in row for seeds in runs.values() for r in seeds for row in r)]
    if not shown:
        raise ValueError(f"no run has any of the metrics {', '.join(metrics)}")
    styles = _styles(runs, order)
    columns = min(columns, len(shown))
    lines = -(-len(shown) // columns)
    with _figure(3.3 * columns + 0.4, 2.3 * lines + 0.5, lines, columns) as (figure, axes):
        for axis in axes.flat[len(shown) :]:
            axis.set_visible(False)
        for axis, metric in zip(axes.flat, shown, strict=False):
            for arm, seeds in runs.items():
                _arm_curve(axis, styles[arm], seeds, metric, smooth)
            axis.set_title(metric)
            axis.set_xlabel("step")
            axis.margins(x=0.02)
        _legend(figure, styles)
        return _svg(figure, f"Training curves of {', '.join(runs)}: {', '.join(shown)}")


def _arm_curve(axis: Any, index: int, seeds: Sequence[Rows], metric: str, smooth: float) -> None:
    curves = []
    for rows in seeds:
        points = [(row["step"], row[metric]) for row in rows if _finite(row.get(metric))]
        if points:
            x, y = np.asarray(points, float).T
            curves.append((x, _smoothed(y, smooth)))
    for x, y in curves if len(curves) > 1 else ():
        axis.plot(x, y, color=_colour(index), linewidth=0.7, alpha=0.35)
    if curves:
        steps = max((x for x, _ in curves), key=len)
        mean = np.mean([np.interp(steps, x, y) for x, y in curves], axis=0)
        axis.plot(steps, mean, color=_colour(index), linestyle=_LINES[index % len(_LINES)], linewidth=1.7)


def forest(
    rows: Mapping[str, Mapping[str, Interval]],
    *,
    order: Sequence[str] = (),
    unit: str = "%",
    zero: bool = False,
    xlabel: str = "",
    columns: int = 3,
) -> str:
    """Estimates with their intervals, one panel per metric, one line per name.

    Args:
      rows: name → metric → interval. order: as in :func:`training_curves`.
      zero: the estimates are differences; draw them in one colour, with a line at 0.
    """
    metrics = list(dict.fromkeys(metric for row in rows.values() for metric in row))
    if not metrics:
        raise ValueError("a forest plot needs at least one interval")
    factor = 100.0 if unit == "%" else 1.0
    names, styles = list(rows), _styles(rows, order)
    columns = min(columns, len(metrics))
    lines = -(-len(metrics) // columns)
    height = (0.34 * len(names) + 0.95) * lines
    with _figure(2.3 * columns + 1.3, height, lines, columns, sharey=True) as (figure, axes):
        for axis in axes.flat[len(metrics) :]:
            axis.set_visible(False)
        for axis, metric in zip(axes.flat, metrics, strict=False):
            for line, name in enumerate(names):
                interval = rows[name].get(metric)
                if interval is not None:
                    _whisker(axis, line, 0 if zero else styles[name], interval.scaled(factor))
            if zero:
                axis.axvline(0, color=_MUTED, linewidth=1)
            axis.set_title(metric)
            axis.set_xlabel(xlabel or ("points" if zero and unit == "%" else unit))
            axis.set_yticks(range(len(names)), names)
            axis.set_ylim(len(names) - 0.4, -0.6)
            axis.tick_params(axis="y", length=0, labelcolor=_INK, labelsize=9)
            axis.grid(axis="y", visible=False)
        return _svg(figure, f"Intervals of {', '.join(metrics)} for {', '.join(names)}")


def _whisker(axis: Any, line: int, style: int, interval: Interval) -> None:
    colour = _colour(style)
    axis.plot([interval.low, interval.high], [line, line], color=colour, linewidth=2.2, solid_capstyle="round")
    axis.plot([interval.value], [line], marker=_MARKERS[style % len(_MARKERS)], color=colour, markersize=6)


def lines(
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    *,
    order: Sequence[str] = (),
    xlabel: str = "",
    ylabel: str = "",
    log_x: bool = False,
) -> str:
    """A plain chart of named (x, y) series; ``order`` as in :func:`training_curves`."""
    styles = _styles(series, order)
    with _figure(6.4, 3.2, 1, 1) as (figure, axes):
        axis = axes.flat[0]
        for name, (x, y) in series.items():
            index = styles[name]
            marker = _MARKERS[index % len(_MARKERS)] if len(x) <= 30 else None
            style = _LINES[index % len(_LINES)]
            axis.plot(x, y, color=_colour(index), linestyle=style, marker=marker, markersize=4, linewidth=1.7)
        if log_x:
            axis.set_xscale("log")
        axis.set_xlabel(xlabel)
        axis.set_ylabel(ylabel)
        _legend(figure, styles)
        return _svg(figure, f"{ylabel or 'Values'} of {', '.join(series)}")


def histograms(
    values: Mapping[str, np.ndarray],
    *,
    marks: Mapping[str, Sequence[float]] | None = None,
    ylabel: str = "rows",
    bins: int = 30,
) -> str:
    """Small histograms beside each other, one per name, of whole numbers; ``marks`` are vertical lines, by name."""
    from matplotlib.ticker import MaxNLocator

    with _figure(3.3 * len(values) + 0.4, 2.5, 1, len(values)) as (figure, axes):
        for axis, (name, own) in zip(axes.flat, values.items(), strict=True):
            low, high = int(own.min()), int(own.max())
            width = max(1, -(-(high - low + 1) // bins))  # whole numbers: no bin has more of them than another
            edges = np.arange(low, high + width + 1, width) - 0.5
            axis.hist(own, edges, color=_colour(0), edgecolor=_colour(0), linewidth=0.3)
            for mark in (marks or {}).get(name, ()):
                axis.axvline(mark, color=_colour(1), linestyle="--", linewidth=1.1)
            axis.set_title(name)
            axis.set_ylabel(ylabel if axis is axes.flat[0] else "")
            axis.grid(axis="x", visible=False)
            axis.xaxis.set_major_locator(MaxNLocator(5, integer=True))
            axis.margins(x=0.02)
        return _svg(figure, f"Histograms of {', '.join(values)}")


def data_uri(image: np.ndarray, *, least: int = 0, lossy: bool = False) -> str:
    """uint8 [H, W, 3] as a data URI: PNG, or where it may be ``lossy``, JPEG, which is ten times smaller for photos.

    An image smaller than ``least`` is repeated pixel by pixel to reach it.
    """
    image = np.asarray(image)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"an image must be uint8 [H, W, 3], not {image.dtype} {image.shape}")
    factor = max(1, -(-least // max(image.shape[:2])))
    if factor > 1:
        image = image.repeat(factor, 0).repeat(factor, 1)
    buffer = io.BytesIO()
    if lossy:
        Image.fromarray(image).save(buffer, "JPEG", quality=85)
    else:
        Image.fromarray(image).save(buffer, "PNG", optimize=True)
    return f"data:image/{'jpeg' if lossy else 'png'};base64,{base64.b64encode(buffer.getvalue()).decode()}"


class _figure:
    """A figure in the report's style, and its axes as an array. Without pyplot, so no global state and no display."""

    def __init__(self, width: float, height: float, rows: int, columns: int, **options: Any):
        self.size, self.shape, self.options = (width, height), (rows, columns), options

    def __enter__(self) -> tuple[Any, Any]:
        import matplotlib

        self._context = matplotlib.rc_context(_STYLE)
        self._context.__enter__()
        from matplotlib.figure import Figure

        figure = Figure(figsize=self.size, layout="constrained")
        return figure, figure.subplots(*self.shape, squeeze=False, **self.options)

    def __exit__(self, *error: Any) -> None:
        self._context.__exit__(*error)


def _colour(index: int) -> str:
    return f"#0404{index % SERIES:02x}"


def _styles(names: Iterable[str], order: Sequence[str]) -> dict[str, int]:
    """Style number of each name: its index in ``order``, then in order of first appearance."""
    numbers = {name: index for index, name in enumerate(dict.fromkeys([*order, *names]))}
    return {name: numbers[name] for name in names}


def _legend(figure: Any, styles: Mapping[str, int]) -> None:
    if len(styles) < 2:
        return
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=_colour(index), linestyle=_LINES[index % len(_LINES)], linewidth=1.7, label=name)
        for name, index in styles.items()
    ]
    figure.legend(handles=handles, loc="outside upper left", ncols=min(len(styles), 5), handlelength=2.6)


def _svg(figure: Any, description: str) -> str:
    """SVG text that fills its column, with theme colours and ids that are unique on the page."""
    import matplotlib

    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": description}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None}, bbox_inches="tight")
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    for standin, variable in _STANDINS.items():
        text = text.replace(standin, f"var({variable})")
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"font-family: [^;\"]*", "font-family: var(--sans)", text)
    width = float(re.findall(r'width="([\d.]+)pt"', text)[0])
    text = re.sub(r' (?:width|height)="[\d.]+pt"', "", text, count=2)
    name = "c" + hashlib.sha256(text.encode()).hexdigest()[:8]
    text = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', text)
    text = re.sub(r'(xlink:href="#|url\(#)', rf"\g<1>{name}-", text)
    label = description.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
    # A point is 4/3 pixels. At this width the text has its natural size.
    attributes = f'role="img" aria-label="{label}" style="max-width:{width * 4 / 3:.0f}px"'
    return text.replace("<svg ", f"<svg {attributes} ", 1)


def _smoothed(y: np.ndarray, weight: float) -> np.ndarray:
    """Exponential moving average with bias correction at the start."""
    out, total, norm = np.empty_like(y), 0.0, 0.0
    for index, value in enumerate(y):
        total = weight * total + (1 - weight) * value
        norm = weight * norm + (1 - weight)
        out[index] = total / norm
    return out


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and bool(np.isfinite(value))
