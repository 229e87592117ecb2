r"""Units at the end of a value: ``5\text{ cm}^2`` is the value ``5`` and the unit ``cm^2``, ``60°`` is 60 ``deg``."""

from __future__ import annotations

import re
from typing import Literal

Policy = Literal["ignore", "same", "require"]

# name → the ways to write it. One letter counts only where \text{}, \mathrm{} or a blank sets it apart from the value:
# "5m" may be a product.
_ALIASES = {
    "deg": "° degree degrees deg circ",
    "mm": "mm millimeter millimeters millimetre millimetres",
    "cm": "cm centimeter centimeters centimetre centimetres 厘米",
    "dm": "dm decimeter decimeters decimetre decimetres 分米",
    "m": "m meter meters metre metres 米",
    "km": "km kilometer kilometers kilometre kilometres 千米 公里",
    "in": "in inch inches",
    "ft": "ft foot feet",
    "yd": "yd yard yards",
    "mi": "mi mile miles",
    "nmi": "nmi 海里",
    "mg": "mg milligram milligrams",
    "g": "g gram grams",
    "kg": "kg kilogram kilograms 千克",
    "lb": "lb lbs pound pounds",
    "ml": "ml mL milliliter milliliters millilitre millilitres",
    "l": "l L liter liters litre litres",
    "s": "s sec second seconds 秒",
    "min": "min minute minutes 分钟",
    "h": "h hr hrs hour hours 小时",
    "rad": "rad radian radians",
    "unit": "unit units",
}
_CANONICAL = {word: name for name, words in _ALIASES.items() for word in words.split()}
_POWER = {"²": "2", "³": "3"}
_WORDS = {"square": "2", "sq": "2", "cubic": "3"}

_DEGREES = re.compile(
    r"\s*(?:\^\s*\{?\s*(?:\\circ|\\degree|\\bullet|\\bigcirc|\\text\{\s*(?:circ|o)\s*\})\s*\}?|\\degree|\\circ|°)$"
)
_EXPONENT = r"(?:\s*\^\s*(?:\{\s*([23])\s*\}|([23]))|([²³]))?"
# The whole end of the text: a text group, or plain letters after a digit or a brace.
_GROUP = re.compile(
    r"(?:\\[ ,;!]|~|\s)*\\(?:text|textrm|textbf|mathrm|mathbf|mbox|operatorname)\s*\{([^{}]*)\}" + _EXPONENT + "$"
)
_LETTERS = re.compile(
    r"(?<=[\d}π])((?:\\[ ,;!]|~|\s)*)([A-Za-z]+(?:[ /][A-Za-z]+)?|[厘分千]?[米克]|公里|海里)" + _EXPONENT + "$"
)
_INNER = re.compile(r"([^\W\d_]+|°)(?:\s*\^?\s*\{?([23²³])\}?)?")
_VALUE = re.compile(r"[\d}\])!]$|\\pi$|π$")


def split(answer: str) -> tuple[str, str]:
    r"""An answer as (value, unit); the unit is "" where there is none.

    A word in ``\text{}`` after a value is a unit even where it is in no list (``5\text{ apples}``). A percent sign is
    part of the value.
    """
    text = answer.strip().rstrip(".").strip()
    if found := _DEGREES.search(text):
        return text[: found.start()].strip(), "deg"
    if found := _GROUP.search(text):
        value = _without_blanks(text[: found.start()])
        unit = _name(found[1], found[2] or found[3] or found[4] or "")
        if _VALUE.search(value) and unit and "%" not in found[1] and "percent" not in found[1]:
            return value, unit
    if found := _LETTERS.search(text):
        known = all(word in _CANONICAL or word in _WORDS for word in re.split("[ /]", found[2]))
        if known and (found[1] or len(found[2]) > 1 or not found[2].isascii()):
            return _without_blanks(text[: found.start()]), _name(found[2], found[3] or found[4] or found[5] or "")
    return text, ""


def agree(answer: str, gold: str, policy: Policy) -> bool:
    """Whether the unit of an answer fits that of the gold.

    Args:
      policy: ``ignore``: always. ``same``: two different units never fit, and a missing one fits any. ``require``: both
        have the same unit, or both have none.
    """
    if policy == "ignore":
        return True
    if policy == "same":
        return answer == gold or not answer or not gold
    if policy == "require":
        return answer == gold
    raise ValueError(f"units '{policy}' is unknown; there are ignore, same, require")


def _without_blanks(value: str) -> str:
    return re.sub(r"(?:\\[ ,;!]|~|\s)+$", "", value)


def _name(words: str, power: str) -> str:
    """Canonical name, such as "cm^2" for "square centimeters"."""
    names = []
    for word, inner in _INNER.findall(words):
        power = inner or power
        if word.lower() in _WORDS:
            power = _WORDS[word.lower()]
        else:
            names.append(_CANONICAL.get(word) or _CANONICAL.get(word.lower(), word.lower()))
    unit = " ".join(names)
    power = _POWER.get(power, power)
    return f"{unit}^{power}" if unit and power else unit
