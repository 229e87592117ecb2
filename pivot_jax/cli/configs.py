"""``configs``: the configs of the package, and copies of them to edit."""

from __future__ import annotations

import argparse

from pivot_jax.cli import outputs, tables
from pivot_jax.errors import UserError


def configs(args: argparse.Namespace, overrides: dict[str, str]) -> None:
    from pivot_jax.config import catalogue

    if args.copy is not None:
        for path, kept in catalogue.copy(args.copy, outputs.folder(args.to or "configs", "--to")):
            print(f"{path} ({kept})" if kept else path)
        return
    if args.to is not None:
        raise UserError("--to: the folder for a copy; name the config with --copy NAME")
    table = tables.table("config", "what", "argument after a colon")
    for column in table.columns[1:]:
        column.justify, column.no_wrap = "left", False
    shown = [entry for entry in catalogue.entries() if entry.name.startswith(args.beginning)]
    if not shown:
        raise UserError(f"no config begins with '{args.beginning}'; `pivot-jax configs` lists them all")
    for entry in shown:
        table.add_row(entry.name, entry.summary, entry.argument)
    tables.console().print(table)
