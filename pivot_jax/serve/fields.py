"""The fields of a request: read with their types and limits, and none left over unread."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pivot_jax.errors import suggest
from pivot_jax.serve.failure import Failure, bad

# They change no answer: names for the caller's own books, and settings of OpenAI's own machines.
IGNORED = frozenset({"user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key"})


def parse(body: bytes) -> dict[str, Any]:
    """The JSON object of a request's body. Raises Failure 400 for anything else."""
    try:
        found = json.loads(body, parse_constant=_no_number)
        if b"\\u" in body:  # an escape may be half of a character, which no tokenizer and no reply takes
            json.dumps(found, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        half = error.object[error.start]
        raise Failure(400, f"the body holds {half!a}, half of a character; remove it") from None
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise Failure(400, f"the body is not JSON ({reason})") from None
    if not isinstance(found, dict):
        raise Failure(400, f"the body is {_kind(found)}, not a JSON object")
    return found


def _no_number(text: str) -> Any:
    raise ValueError(f"{text} is no JSON number")


class Fields:
    """A JSON object of which every field is read once. Null is the same as absent.

    Args:
      where: beginning of its fields' names in messages, such as ``messages[0].``.
    """

    def __init__(self, values: Mapping[str, Any], where: str = ""):
        self._values, self._where = dict(values), where
        self._known: list[str] = []

    def name(self, field: str) -> str:
        return f"{self._where}{field}"

    def take(self, field: str) -> Any:
        """The value, None where there is none."""
        self._known.append(field)
        return self._values.pop(field, None)

    def text(self, field: str) -> str | None:
        value = self.take(field)
        if value is not None and not isinstance(value, str):
            raise bad(self.name(field), f"{_kind(value)}, not a string")
        return value

    def flag(self, field: str) -> bool:
        value = self.take(field)
        if value is not None and not isinstance(value, bool):
            raise bad(self.name(field), f"{_kind(value)}, not true or false")
        return bool(value)

    def whole(self, field: str, least: int, most: int) -> int | None:
        """A whole number in a range."""
        value = self.take(field)
        if value is None:
            return None
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise bad(self.name(field), f"{_shown(value)} is not a whole number from {least} to {most}")
        return value

    def number(self, field: str, least: float, most: float) -> float | None:
        value = self.take(field)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
            raise bad(self.name(field), f"{_shown(value)} is not a number from {least:g} to {most:g}")
        return float(value)

    def neutral(self, allowed: Mapping[str, tuple[Any, ...]]) -> None:
        """Fields that are accepted only with a value that changes nothing: field → such values."""
        for field, values in allowed.items():
            value = self._values.pop(field, None)
            if value is not None and not any(_same(value, one) for one in values):
                rule = f"only {' or '.join(map(_shown, values))} is" if values else "it is not"
                raise bad(self.name(field), f"{_shown(value)} is not supported ({rule} supported here); leave it out")

    def end(self) -> None:
        """Raises Failure 400 for a field that nothing has read."""
        left = [field for field in self._values if field not in IGNORED]
        if left:
            near = suggest(left[0], self._known) or f"; this server takes {', '.join(sorted(self._known))}"
            raise bad(self.name(left[0]), f"an unknown field{near}")


def _same(value: Any, other: Any) -> bool:
    return value == other and isinstance(value, bool) == isinstance(other, bool)


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "a truth value", type(None): "null"}
    return names.get(type(value), "a number")


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}…"
