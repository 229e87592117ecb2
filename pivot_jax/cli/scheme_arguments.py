"""The options of ``scheme``, and those of every command that reads logs of responses."""

from __future__ import annotations

import argparse

from pivot_jax.cli import scheme
from pivot_jax.cli.options import command, positive


def add(subparsers) -> None:
    parser = command(
        subparsers, "scheme", scheme.scheme,
        "accuracy, length and reflection of sampled responses, from the logs of this project or another",
        "A LOG is a file or folder: a workdir of online RL, TRL's completions/, verl's validation dumps, EasyR1's\n"
        "generations.log, VLM-R1's JSON, or rows with columns of your own. Logs of one ARM are its seeds.",
    )  # fmt: skip
    parser.add_argument("logs", metavar="[ARM=]LOG", nargs="+", help="logs, each of one run")
    log_options(parser)
    parser.add_argument("--steps-per-epoch", type=positive, default=0, metavar="N", help="show epochs instead of steps")
    parser.add_argument(
        "--ranks", type=positive, default=0, metavar="N",
        help="show the reflection ratios as MAYE logs them too: means over the N processes that sampled",
    )  # fmt: skip
    parser.add_argument("--out", metavar="DIR", help="also write report.html, report.md, tables and figures there")


def log_options(parser: argparse.ArgumentParser) -> None:
    """How logs of responses are read and judged."""
    parser.add_argument("--format", default="", help="pivot, trl, verl, easyr1, vlm-r1, columns (default: as it looks)")
    parser.add_argument(
        "--columns", metavar="FIELD=COLUMN", nargs="+", default=[],
        help="the log's columns for question, text, step, correct, gold, split, setting, tokens, truncated, prompt, "
        "images",
    )  # fmt: skip
    parser.add_argument("--split", default="", help="train, val or test, where the log does not say")
    parser.add_argument("--setting", default="", help="how responses were sampled, such as T=1")
    parser.add_argument(
        "--judge", default="recorded",
        help="what is correct: the recorded score, or a reward that compares text and right answer: math, maye_math, "
        "choice, number, exact, text, box (default recorded)",
    )  # fmt: skip
    parser.add_argument(
        "--above", type=float, default=0.5, metavar="X", help="a score above it is correct (default 0.5)"
    )
