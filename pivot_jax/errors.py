"""Errors that are the input's fault, not the code's."""

from typing import Any


class UserError(ValueError):
    """Bad input. The message is one line: what is wrong, where (file, row id, key), and the mend.

    The command line prints it and exits with 1; a traceback is for a bug.
    """


class RowError(UserError):
    """One bad data row. The loader counts it, writes it to ``skipped.jsonl`` and goes on."""

    def __init__(self, row_id: str, reason: str):
        super().__init__(f"row '{row_id}': {reason}")
        self.row_id = row_id
        self.reason = reason

    def __reduce__(self) -> tuple[Any, ...]:
        return RowError, (self.row_id, self.reason)  # it comes back from worker processes
