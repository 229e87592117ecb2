"""Options that several commands have, and the numbers that they take."""

from __future__ import annotations

import argparse

MOST_TOKENS = 1 << 16  # of an answer; the limit of eval.max_new_tokens in config.check
LARGEST = (1 << 32) - 1  # of any other number; the largest seed


def command(subparsers, name: str, run, summary: str, details: str = "") -> argparse.ArgumentParser:
    parser = subparsers.add_parser(
        name,
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}.",
        epilog=details or None,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.set_defaults(run=run)
    return parser


def config(parser: argparse.ArgumentParser, required: bool = True) -> None:
    parser.add_argument(
        "--config", metavar="FILE[:ARG]", required=required,
        help="config file, name of a packaged config (`pivot-jax configs` lists them), or a run's config.json",
    )  # fmt: skip
    parser.set_defaults(takes_overrides=True)


def workdir(parser: argparse.ArgumentParser, what: str, default: str | None = None) -> None:
    parser.add_argument("--workdir", metavar="DIR", required=default is None, default=default, help=what)


def step(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--step", type=count, metavar="N", help="checkpoint (default: the newest)")


def count(text: str) -> int:
    return whole(text, 0)


def positive(text: str) -> int:
    return whole(text, 1)


def tokens(text: str) -> int:
    return whole(text, 1, MOST_TOKENS)


def whole(text: str, least: int, most: int = LARGEST) -> int:
    good = text.isascii() and text.isdigit()
    if not good or int(text) < least or int(text) > most:
        limit = f"of at least {least}" if most == LARGEST else f"between {least} and {most}"
        large = f"; the largest is {most}" if good and int(text) > LARGEST else ""
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number {limit}{large}")
    return int(text)


def shard(text: str) -> tuple[int, int]:
    """``2/4``: the second of four parts."""
    part, slash, parts = text.partition("/")
    if not (slash and part.isdecimal() and parts.isdecimal() and 1 <= int(part) <= int(parts)):
        raise argparse.ArgumentTypeError(f"'{text}' is not K/N, the K-th of N parts, such as 1/4")
    return int(part), int(parts)
