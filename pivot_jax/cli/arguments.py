"""Commands, their options and their help texts."""

from __future__ import annotations

import argparse
import re

from pivot_jax.cli import commands

OVERRIDE = re.compile(r"--config\.([^=]+)(?:=(.*))?", re.DOTALL)
CONFIG_HELP = """\
Keys of a config are set after the file: --config.optimizer.clip=0.5, --config.data.sources.0.path=FILE,
--config.init.vision=hf:FOLDER, --config.optimizer.rules="(('vision/.*', 'frozen'), ('.*', 1e-5))".
pivot_jax/config/base.py says what each key means; an unknown key is refused."""


def build_parser(version: str) -> argparse.ArgumentParser:
    """The whole parser; every command has ``run`` set to its function."""
    parser = argparse.ArgumentParser(
        prog="pivot-jax",
        description="Preference RL and SFT for multimodal LLMs, and what they do to the vision encoder.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"pivot-jax {version}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for add in (_demo, _train):
        add(subparsers)
    return parser


def parse(parser: argparse.ArgumentParser, argv: list[str]) -> tuple[argparse.Namespace, dict[str, str]]:
    """Options, and the ``--config.key=value`` overrides taken out of ``argv`` (also ``--config.key value``).

    Wrong usage prints the reason and exits with 2.
    """
    rest: list[str] = []
    overrides: dict[str, str] = {}
    words = iter(argv)
    for word in words:
        match = OVERRIDE.fullmatch(word)
        if match is None:
            rest.append(word)
            continue
        key, value = match[1], match[2]
        if value is None:
            value = next(words, None)
            if value is None:
                parser.error(f"--config.{key}: no value; write --config.{key}=VALUE")
        overrides[key] = value
    args = parser.parse_args(rest)
    if overrides and not hasattr(args, "config"):
        parser.error(f"{args.command} takes no config, but --config.{next(iter(overrides))} was given")
    return args, overrides


def _command(subparsers, name: str, run, summary: str, details: str = "") -> argparse.ArgumentParser:
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


def _config(parser: argparse.ArgumentParser, required: bool = True) -> None:
    parser.add_argument("--config", metavar="FILE[:ARG]", required=required, help="config file, or a run's config.json")


def _workdir(parser: argparse.ArgumentParser, what: str, default: str | None = None) -> None:
    parser.add_argument("--workdir", metavar="DIR", required=default is None, default=default, help=what)


def _demo(subparsers) -> None:
    parser = _command(
        subparsers, "demo", commands.demo,
        "the whole study in miniature: pretraining, stages 1a and 1b, SFT and DPO arms, probes, stage 3, one report",
        "Stopped and started again it continues.",
    )  # fmt: skip
    _workdir(parser, "where runs and report.html go (default runs/demo)", "runs/demo")


def _train(subparsers) -> None:
    parser = _command(
        subparsers, "train", commands.train,
        "train one stage from a config; resumes by itself if the workdir holds a checkpoint", CONFIG_HELP,
    )  # fmt: skip
    _config(parser)
    _workdir(parser, "where the run's checkpoints, metrics.jsonl and config.json go")
    parser.add_argument("--print-config", action="store_true", help="print the complete config as JSON and stop")
