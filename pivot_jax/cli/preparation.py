"""``prepare``: data sets from installed Python packages, as folders that configs and benchmarks read."""

from __future__ import annotations

import argparse

from pivot_jax.cli import outputs, tables

DATA = ("easy-vqa",)


def prepare(args: argparse.Namespace, overrides: dict[str, str]) -> None:
    from pivot_jax.data import easy_vqa

    out = outputs.folder(args.out, "--out")
    about = easy_vqa.prepare(out, args.seed)
    print(f"{out}: {args.data}, seed {args.seed}, {about['images']['train']} + {about['images']['test']} images")
    table = tables.table("file", "rows", "SHA-256")
    for name, rows in about["rows"].items():
        table.add_row(name, f"{rows:,}", about["sha256"][name][:16])
    tables.console().print(table)
