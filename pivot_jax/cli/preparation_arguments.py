"""The options of ``prepare``, by the data set."""

from __future__ import annotations

from pivot_jax.cli import preparation
from pivot_jax.cli.options import command, count, positive
from pivot_jax.cli.scheme_arguments import log_options


def add(subparsers) -> None:
    parser = command(subparsers, "prepare", None, "write a data set as a folder that configs and benchmarks read")
    kinds = parser.add_subparsers(dest="data", metavar="DATA", required=True)
    easy = command(
        kinds, "easy-vqa", preparation.easy_vqa,
        "training rows, pairs, validation and test questions of the installed package easy-vqa 1.0",
        "A folder that is there with the same seed is left as it is.",
    )  # fmt: skip
    easy.add_argument("--out", metavar="DIR", required=True, help="folder for it; configs/real reads runs/real/data")
    easy.add_argument("--seed", type=count, default=0, metavar="N", help="of every random choice (default 0)")
    pairs = command(
        kinds, "mmpr", preparation.mmpr, "a random subset of MMPR: the same rows for every arm, with a content hash",
        "Rows are in random order, so the first 3,000 of 20,000 are the subset of 3,000. Images stay where they are.",
    )  # fmt: skip
    pairs.add_argument("--source", metavar="FILE", required=True, help="meta.json of MMPR, or one annotation file")
    pairs.add_argument("--out", metavar="DIR", required=True, help="folder for pairs.jsonl and about.json")
    pairs.add_argument("--rows", type=positive, default=20_000, metavar="N", help="default 20000")
    pairs.add_argument("--seed", type=count, default=0, metavar="N", help="of the choice (default 0)")
    pairs.add_argument("--filter", metavar="RULE", help="under30, nothink, shifted, shift:R:N or shift_only:R:N")
    pairs.add_argument(
        "--overwrite", action="store_true", help="replace an earlier subset, never a folder that holds anything else"
    )
    own = command(
        kinds, "responses", preparation.responses,
        "training data from a model's own responses: the right ones for SFT, and pairs of right and wrong for DPO",
        "LOG is any log that `pivot-jax scheme` reads, such as a workdir of online RL.",
    )  # fmt: skip
    own.add_argument("--log", metavar="LOG", required=True, help="file or folder with the responses")
    own.add_argument("--out", metavar="DIR", required=True, help="folder for right.jsonl, pairs.jsonl and about.json")
    own.add_argument("--per-question", type=positive, default=1, metavar="N", help="rows of a question, at most (1)")
    own.add_argument("--seed", type=count, default=0, metavar="N", help="of the choice of responses (default 0)")
    own.add_argument("--overwrite", action="store_true", help="replace what this command wrote there before")
    log_options(own)
    sets = command(
        kinds, "maye", preparation.maye,
        "MAYE's mm_math5k and geometry3k, from MM_Math, MathVerse and hiyouga/geometry3k as the hub has them",
        "SOURCE holds the folders MM_Math, MathVerse and geometry3k, or some of them. The paper does not say which\n"
        "problems it took of the first two: they are drawn by seed from those whose answer is a number.",
    )  # fmt: skip
    sets.add_argument("--source", metavar="SOURCE", required=True, help="folder with the published data sets")
    sets.add_argument("--out", metavar="DIR", required=True, help="folder for NAME_v0.jsonl, images/ and about.json")
    sets.add_argument("--seed", type=count, default=0, metavar="N", help="of the choice (default 0)")
    sets.add_argument("--overwrite", action="store_true", help="replace what this command wrote there before")
