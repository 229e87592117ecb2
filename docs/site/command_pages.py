"""The reference of the command line, from its parsers."""

from __future__ import annotations

import argparse
import html
import os
import re

from pivot_jax.cli.arguments import build_parser

INTRODUCTION = """# Commands

`pivot-jax COMMAND --help` prints the same. Exit codes: 0 done; 1 a failure with a one-line reason; 2 wrong usage; 130,
143 and 129 stopped by Ctrl-C, SIGTERM and SIGHUP after saving.
"""


def pages() -> dict[str, str]:
    """Site path → Markdown."""
    os.environ["COLUMNS"] = "80"  # of a usage line
    parts = [INTRODUCTION]
    for name, parser in children(build_parser("0")).items():
        parts += _command(f"pivot-jax {name}", parser, 2)
    return {"reference/cli.md": "\n\n".join(parts) + "\n"}


def children(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """The subcommands of a command, by name."""
    groups = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    return dict(groups[0].choices) if groups else {}


def _command(name: str, parser: argparse.ArgumentParser, level: int) -> list[str]:
    parts = [f"{'#' * level} {name}", _plain(parser.description or "")]
    kinds = children(parser)
    if not kinds:
        parts.append(f"```text\n{parser.format_usage().removeprefix('usage: ').strip()}\n```")
        parts.append("\n".join(_option(parser, action) for action in parser._actions if action.dest != "help"))
    if parser.epilog:
        parts.append(f"```text\n{parser.epilog}\n```" if "--" in parser.epilog else _plain(parser.epilog))
    for kind, child in kinds.items():
        parts += _command(f"{name} {kind}", child, level + 1)
    return parts


def _option(parser: argparse.ArgumentParser, action: argparse.Action) -> str:
    shown = ", ".join(action.option_strings) or ""
    if action.nargs != 0:
        value = action.metavar or "|".join(map(str, action.choices or ())) or action.dest.upper()
        shown = f"{shown} {value}".strip()
    text = parser._get_formatter()._expand_help(action) if action.help else ""
    needed = "required" if action.required and action.option_strings else ""
    about = ". ".join(filter(None, (needed, text)))
    return f"- `{shown}`: {_plain(about)}" if about else f"- `{shown}`"


def _plain(text: str) -> str:
    return html.escape(re.sub(r"([*_\[\]|~`])", r"\\\1", text), quote=False)
