"""The numbers of a data page as files: ``data.json``, and a line per row as CSV."""

from __future__ import annotations

import csv
import dataclasses
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pivot_jax.data.loading.schedule import assign
from pivot_jax.report.data.advice import advice
from pivot_jax.report.data.padding import Epoch, Packing
from pivot_jax.report.data.reading import Reading
from pivot_jax.report.data.summary import Summary, by_file

JSON, ROWS_CSV, BAD_CSV = "data.json", "rows.csv", "bad_rows.csv"
COLUMNS = ("row", "id", "file", "row_of_file", "tokens", "scored_tokens", "image_tokens", "images", "bucket",
           "truncated", "whole_tokens", "same_as")  # fmt: skip


def write(reading: Reading, summary: Summary, folder: Path) -> None:
    """Writes the three files into a folder that is there."""
    content = json.dumps(as_json(reading, summary), indent=1, ensure_ascii=False)
    (folder / JSON).write_text(content + "\n", encoding="utf-8", errors="backslashreplace")
    _csv(folder / ROWS_CSV, COLUMNS, _rows(reading, summary))
    bad = ((row.file, row.number + 1, row.id, row.reason) for row in reading.bad)
    _csv(folder / BAD_CSV, ("file", "row_of_file", "id", "reason"), bad)


def as_json(reading: Reading, summary: Summary) -> dict[str, Any]:
    """All numbers of the page. Shares are 0 to 1."""
    table, duplicates = reading.table, summary.duplicates
    notices = advice(reading, summary)
    return {
        "name": reading.config.name,
        "kind": reading.kind,
        "rows": len(table),
        "bad_rows": len(reading.bad),
        "truncated_rows": int(table.truncated.sum()),
        "images": len(table.image_keys),
        "different_images": len(np.unique(table.image_keys)),
        "steps_per_epoch": reading.loader.steps_per_epoch,
        "total_steps": reading.loader.total_steps,
        "lengths": {name: dataclasses.asdict(one) for name, one in summary.lengths.items()},
        "epoch": _epoch(summary.epoch),
        "packings": [_packing(one) for one in summary.packings],
        "suggested": None if summary.suggested is None else _packing(summary.suggested),
        "files": {
            file: {"rows": rows, "bad_rows": bad, "tokens": tokens}
            for file, (rows, bad, tokens) in by_file(reading).items()
        },
        "duplicates": {
            "repeated_rows": duplicates.surplus,
            "prompts_with_different_answers": len(duplicates.prompts),
            "images_in_several_rows": len(duplicates.images),
            "equal_pairs": reading.equal_pairs,
            "nearly_equal_pairs": duplicates.alike,
        },
        "columns": summary.values,
        "warnings": [dataclasses.asdict(one) for one in notices],
    }


def _epoch(epoch: Epoch | None) -> dict[str, Any] | None:
    if epoch is None:
        return None
    return {
        "positions": epoch.positions,
        "tokens": epoch.used_tokens,
        "padding": epoch.padding,
        "target_padding": epoch.target_padding,
        "buckets": [dataclasses.asdict(use) for use in epoch.uses],
    }


def _packing(one: Packing) -> dict[str, Any]:
    return {
        "packing": one.packing,
        "buckets": one.buckets,
        "from_data": one.from_data,
        "positions": None if one.epoch is None else one.epoch.positions,
        "padding": None if one.epoch is None else one.epoch.padding,
        "reason": one.reason,
    }


def _rows(reading: Reading, summary: Summary) -> Iterable[Sequence[Any]]:
    table = reading.table
    loader = reading.batched
    bucket = np.full(len(table), -1) if loader is None else assign(table.tokens, table.targets, loader.buckets)
    same = {int(row): table.ids[int(group[0])] for group in summary.duplicates.rows for row in group[1:]}
    for row in range(len(table)):
        yield (
            row, table.ids[row], table.files[row], table.numbers[row] + 1, table.tokens[row], table.targets[row],
            table.image_tokens[row], table.images[row], "" if bucket[row] < 0 else bucket[row],
            int(table.truncated[row]), table.whole_tokens[row], same.get(row, ""),
        )  # fmt: skip


def _csv(path: Path, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    with path.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(rows)
