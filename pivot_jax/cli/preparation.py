"""``prepare``: data sets from installed Python packages and from published ones, as folders that configs read."""

from __future__ import annotations

import argparse

from pivot_jax.cli import outputs, scheme, tables


def easy_vqa(args: argparse.Namespace, overrides: dict[str, str]) -> None:
    from pivot_jax.data import easy_vqa as data

    out = outputs.folder(args.out, "--out")
    about = data.prepare(out, args.seed)
    print(f"{out}: easy-vqa, seed {args.seed}, {about['images']['train']} + {about['images']['test']} images")
    table = tables.table("file", "rows", "SHA-256")
    for name, rows in about["rows"].items():
        table.add_row(name, f"{rows:,}", about["sha256"][name][:16])
    tables.console().print(table)


def mmpr(args: argparse.Namespace, overrides: dict[str, str]) -> None:
    from pivot_jax.data import subset

    out = outputs.folder(args.out, "--out")
    about = subset.write_subset(args.source, out, args.rows, args.seed, args.filter or "", overwrite=args.overwrite)
    print(f"{out / subset.ROWS}: {about['rows']:,} pairs, seed {args.seed}, content {about['content'][:16]}")
    print(f"in a config: {{'format': 'mmpr', 'path': '{out / subset.ROWS}', 'image_root': '{about['image_root']}'}}")


def responses(args: argparse.Namespace, overrides: dict[str, str]) -> None:
    from pivot_jax.rl import self_made

    out = outputs.folder(args.out, "--out")
    about = self_made.write(
        args.log, out, scheme.settings(args), most=args.per_question, seed=args.seed, overwrite=args.overwrite
    )
    print(
        f"{out}: of {about['questions']:,} questions {about['answered_right']:,} have a right "
        f"response, {about['answered_both_ways']:,} a wrong one too"
    )
    for name, rows in about["rows"].items():
        print(f"{name}: {rows:,} rows, {about['sha256'][name][:16]}")


def maye(args: argparse.Namespace, overrides: dict[str, str]) -> None:
    from pivot_jax.rl import maye_sets

    about = maye_sets.prepare(args.source, outputs.folder(args.out, "--out"), args.seed, overwrite=args.overwrite)
    table = tables.table("file", "problems", "in the paper", "images also in training", "SHA-256")
    for name, rows in about["rows"].items():
        shared = about["test_images_in_training"].get(name)
        cells = (f"{rows:,}", f"{about['paper'][name]:,}", "–" if shared is None else str(shared))
        table.add_row(f"{name}_v0.jsonl", *cells, about["sha256"][name][:16])
    tables.console().print(table)
