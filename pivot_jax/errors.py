"""Errors caused by the input, not by a bug."""

import difflib
from collections.abc import Iterable
from typing import Any


class UserError(ValueError):
    """Bad input. The message is one line: what is wrong, where (file, row id, key), and the fix.

    The command line prints it and exits with 1. A traceback means a bug.
    """


class RowError(UserError):
    """One bad data row. The loader counts it, writes it to ``skipped.jsonl`` and continues."""

    def __init__(self, row_id: str, reason: str):
        super().__init__(f"row '{row_id}': {reason}")
        self.row_id = row_id
        self.reason = reason

    def __reduce__(self) -> tuple[Any, ...]:
        return RowError, (self.row_id, self.reason)  # it is pickled in worker processes


def suggest(word: str, known: Iterable[str]) -> str:
    """``"; did you mean 'x'?"``, or ``""`` when nothing known is near ``word``."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"; did you mean '{near[0]}'?" if near else ""
