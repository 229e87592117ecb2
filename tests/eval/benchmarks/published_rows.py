"""A few rows of every benchmark as published: its columns, their types, and the odd cases, with tiny images.

``ROWS`` holds the rows as the hub's parquet files do, ``TSV`` those that VLMEvalKit's file of that benchmark holds.
:func:`write_tables` and :func:`write_tsv` write them as files. Nothing here imports the project, so that the
toolkits' own environments can read the same rows.
"""

from __future__ import annotations

import csv
from pathlib import Path

import datasets

from tests.eval.benchmarks.published import captions, mathematics, options, short_answers, vision_centric, yes_no
from tests.eval.benchmarks.published.table import Row, Table
from tests.eval.benchmarks.published.tsv import TSV, TsvRow

TABLES: dict[str, list[Table]] = {
    name: tables
    for family in (options, short_answers, vision_centric, yes_no, mathematics, captions)
    for name, tables in family.TABLES.items()
}
ROWS: dict[str, list[Row]] = {
    name: [row for table in tables for row in table.rows] if name != "gqa" else tables[0].rows
    for name, tables in TABLES.items()
}


def write_tables(name: str, folder: Path) -> Path:
    """Write the parquet files of a benchmark below ``folder/name``, laid out as on the hub; returns that folder."""
    for table in TABLES[name]:
        file = folder / name / table.path
        file.parent.mkdir(parents=True, exist_ok=True)
        datasets.Dataset.from_list(table.rows, features=table.features).to_parquet(file)
    return folder / name


def write_tsv(name: str, folder: Path, file: str = "", rows: list[TsvRow] | None = None) -> Path:
    """Write a benchmark's rows as VLMEvalKit's TSV file ``folder/file`` (by default NAME.tsv); returns its path."""
    rows = TSV[name] if rows is None else rows
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / (file or f"{name}.tsv")
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]), delimiter="\t", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return path
