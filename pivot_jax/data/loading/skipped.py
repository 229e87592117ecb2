"""Bad rows: counted, written to ``skipped.jsonl``, and a reason to stop when there are too many."""

from __future__ import annotations

import json
import threading
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from pivot_jax import files
from pivot_jax.errors import RowError, UserError
from pivot_jax.words import counted


class SkipLog:
    """Rows that were left out, each once, with the reason.

    Args:
      path: ``skipped.jsonl`` to write, or None for memory only. A resumed run continues an earlier run's file and
        repeats no row; :meth:`forget` removes rows that have been fixed since.
      total: rows of the data set, good and bad.
      limit: the largest tolerated share of bad rows.
      name: of the data set, for the message.
    """

    def __init__(self, path: Path | None, total: int, limit: float, name: str):
        self.path, self.total, self.limit, self.name = path, total, limit, name
        self._lock = threading.Lock()
        self.entries: dict[int, dict[str, Any]] = {}
        self._start = ""  # written before the next line
        if path is not None and path.is_file():
            text = path.read_text(encoding="utf-8", errors="replace")
            self._start = "\n" if text and not text.endswith("\n") else ""
            for line in text.splitlines():
                self._take(line)

    def _take(self, line: str) -> None:
        try:
            entry = json.loads(line)
            if entry["source"] == self.name:
                self.entries[int(entry["row"])] = entry
        except (ValueError, KeyError, TypeError):
            return  # a line truncated by a kill; the row will be found again

    @property
    def count(self) -> int:
        return len(self.entries)

    @property
    def share(self) -> float:
        return self.count / max(self.total, 1)

    def add(self, row: int, error: RowError) -> None:
        """Adds a bad row (``row`` is its position in the source).

        Raises:
          UserError: the share of bad rows is above the limit.
        """
        self.add_all([(row, error.row_id, error.reason)])

    def add_all(self, bad: Sequence[tuple[int, str, str]]) -> None:
        """Adds bad rows (position in the source, row id, reason): all are written before the limit is checked."""
        with self._lock:
            new = [entry for entry in bad if entry[0] not in self.entries]
            lines = []
            for row, row_id, reason in new:
                self.entries[row] = {"id": row_id, "reason": reason, "row": row, "source": self.name}
                text = json.dumps(self.entries[row], ensure_ascii=False)
                lines.append(text.encode("utf-8", "backslashreplace").decode() + "\n")  # half a character in an id
            if self.path is not None and lines:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                try:
                    with open(self.path, "a", encoding="utf-8") as file:
                        file.write(self._start + "".join(lines))
                except OSError as error:
                    raise files.not_written(self.path, error) from error
                self._start = ""
        self.check()

    def forget(self, rows: Collection[int]) -> None:
        """Removes rows that an earlier run listed and that are good now, from the file too."""
        if not rows:
            return
        with self._lock:
            for row in rows:
                del self.entries[row]
            if self.path is not None:
                lines = self.path.read_text(encoding="utf-8", errors="replace").splitlines()
                kept = [line for line in lines if not self._is_of(line, rows)]
                files.write_text(self.path, "".join(f"{line}\n" for line in kept))
                self._start = ""

    def _is_of(self, line: str, rows: Collection[int]) -> bool:
        try:
            entry = json.loads(line)
            return entry["source"] == self.name and int(entry["row"]) in rows
        except (ValueError, KeyError, TypeError):
            return False

    def check(self) -> None:
        """Raises UserError when the share of bad rows is above the limit."""
        if self.share > self.limit:
            last = next(reversed(self.entries.values()))
            where = f" ({self.path} lists them)" if self.path is not None else ""
            raise UserError(
                f"{self.count} of {counted(self.total, 'row')} of {self.name} {'is' if self.count == 1 else 'are'} bad"
                f"{where}, more than data.max_bad_share={self.limit} allows; fix or remove them, or raise the limit. "
                f"The last is row '{last['id']}': {last['reason']}"
            )
