"""Arguments of the commands in ``evaluation``."""

from __future__ import annotations

from pivot_jax.cli import evaluation
from pivot_jax.cli.options import command, positive, shard, step, tokens, workdir


def add(subparsers) -> None:
    _eval(subparsers)
    _score(subparsers)


def _eval(subparsers) -> None:
    parser = command(
        subparsers, "eval", evaluation.evaluate, "answer a benchmark's questions with a run, and score the answers",
        "A stopped evaluation resumes. --config.eval.KEY and --config.seed change its settings; no other key of a\n"
        "trained run's config can be changed. Answers made under other settings are not reused; they are kept in\n"
        "NAME.others.jsonl.",
    )  # fmt: skip
    workdir(parser, "the run")
    step(parser)
    parser.add_argument(
        "--benchmark",
        metavar="NAME",
        required=True,
        help="such as mmvp; qa for your own questions in any format; or your own FILE.py; a wrong name lists all",
    )
    parser.add_argument("--data", metavar="PATH", required=True, help="the benchmark's file or folder")
    parser.add_argument(
        "--category",
        metavar="COLUMN",
        default="",
        help="of your own questions (qa): also a score per value of this column",
    )
    parser.add_argument(
        "--unit", metavar="COLUMN", default="",
        help="of your own questions (qa): column of what they share, such as an image; intervals draw these whole",
    )  # fmt: skip
    parser.add_argument("--out", metavar="FILE", help="predictions file (default WORKDIR/eval/NAME.jsonl)")
    parser.add_argument("--limit", type=positive, default=0, metavar="N", help="only the first N questions")
    parser.add_argument("--max-new-tokens", type=tokens, default=0, metavar="N", help="default: the toolkit's")
    _rules(parser, "whose prompt, limits, parser and aggregate (default ours)")
    parser.add_argument("--prompt", metavar="TOOLKIT", default="", help="ask as another toolkit does")
    parser.add_argument(
        "--ranked", nargs="?", const="mean", default="", choices=("mean", "sum", "prior"),
        help="also rank the options by likelihood: per token (mean, the default), in sum, or against a blank image",
    )  # fmt: skip
    parser.add_argument(
        "--control", metavar="NAME", default="", help="shuffled-images, or rotated-options: every order of the options"
    )
    parser.add_argument("--blank-images", action="store_true", help="the control: replace every image by a grey one")
    parser.add_argument(
        "--shard", type=shard, default=(1, 1), metavar="K/N",
        help="answer the K-th of N parts, for N processes; each scores what all have answered so far",
    )  # fmt: skip
    parser.set_defaults(takes_overrides=True)


def _score(subparsers) -> None:
    parser = command(
        subparsers, "score", evaluation.score, "score answers again, under other rules or against another model's",
        "PATH is a predictions file, or a folder of them (WORKDIR/eval). Files of lmms-eval (samples jsonl),\n"
        "VLMEvalKit (xlsx, tsv, json), LLaVA and Cambrian are read, too.",
    )  # fmt: skip
    parser.add_argument("--predictions", metavar="PATH", required=True, help="a file, or a folder of files")
    parser.add_argument("--benchmark", metavar="NAME", default="", help="of a file (default: as in the file)")
    parser.add_argument(
        "--data", metavar="PATH", default="", help="the benchmark's files, where answers lack the golds"
    )
    _rules(parser, "whose parser and aggregate (default: whose prompt was asked)")
    parser.add_argument(
        "--judge", metavar="URL", default="",
        help="an OpenAI-compatible endpoint that reads answers in which the scorer finds nothing",
    )  # fmt: skip
    parser.add_argument("--judge-model", metavar="NAME", default="", help="its model ($OPENAI_API_KEY: its key)")
    parser.add_argument("--compare", action="store_true", help="also the score under every toolkit's rules")
    parser.add_argument("--against", metavar="PATH", default="", help="another model's answers: paired differences")
    parser.add_argument("--out", metavar="DIR", default="", help="also write report.html, report.md and tables there")


def _rules(parser, toolkit: str) -> None:
    parser.add_argument("--toolkit", metavar="NAME", default="", help=toolkit)
    parser.add_argument("--scorer", metavar="NAME", default="", help="another scorer; a wrong name lists all")
    parser.add_argument("--aggregate", metavar="TOOLKIT", default="", help="the aggregate of another toolkit")
