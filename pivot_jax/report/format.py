"""Numbers formatted for reading: intervals, counts, times, FLOPs."""

from __future__ import annotations

import math

from pivot_jax.eval.statistics import Interval
from pivot_jax.report.content import Value

MINUS = "−"
_SI = ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def number(value: float, *, unit: str = "", digits: int = 1, signed: bool = False) -> str:
    """A number in its unit, without the unit: 0.673 in "%" is "67.3". A number that is not finite is a dash."""
    if not math.isfinite(value):
        return "–"
    if unit == "%":
        value = 100 * value
    text = f"{value:+.{digits}f}" if signed else f"{value:.{digits}f}"
    if float(text) == 0:
        text = text.lstrip("+-")  # no sign on a zero
    return text.replace("-", MINUS)


def cell(value: Value, *, unit: str = "", digits: int = 1, signed: bool = False) -> tuple[str, str]:
    """(main text, small text below). An interval's bounds are the small text. Integers get thousands separators."""
    if value is None:
        return "–", ""
    if isinstance(value, str):
        return value, ""
    if isinstance(value, Interval):
        main = number(value.value, unit=unit, digits=digits, signed=signed)
        low, high = (number(end, unit=unit, digits=digits, signed=signed) for end in (value.low, value.high))
        return main, f"[{low}, {high}]"
    if isinstance(value, int) and unit != "%":
        return f"{value:,}".replace(",", "\u2009"), ""
    return number(float(value), unit=unit, digits=digits, signed=signed), ""


def shown_unit(unit: str, signed: bool) -> str:
    """The unit to show: differences of percentages are in points."""
    return "pts" if unit == "%" and signed else unit


def duration(seconds: float) -> str:
    """42 s, 3 min 05 s, 2 h 10 min."""
    if not math.isfinite(seconds):
        return "–"
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min"


def si(value: float, unit: str = "") -> str:
    """1.23 T, 456 M: three significant digits with a prefix."""
    if not math.isfinite(value):
        return "–"
    for size, prefix in _SI:
        if abs(value) >= size * 0.9995:
            return f"{_three(value / size)} {prefix}{unit}".rstrip()
    return f"{_three(value)} {unit}".rstrip()


def _three(value: float) -> str:
    digits = 0 if abs(value) >= 99.95 else 1 if abs(value) >= 9.995 else 2
    return f"{value:.{digits}f}"


def p_value(p: float) -> str:
    """0.031, or < 0.001."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"
