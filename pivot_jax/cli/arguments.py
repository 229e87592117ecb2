"""Commands, their options and their help texts."""

from __future__ import annotations

import argparse
import re

from pivot_jax.cli import commands, hugging_face, inspecting, planning, probing

OVERRIDE = re.compile(r"--config\.([^=]+)(?:=(.*))?", re.DOTALL)
MOST_TOKENS = 1 << 16  # of an answer; as config.check allows eval.max_new_tokens
LARGEST = (1 << 32) - 1  # of any other number: what a seed may be
CONFIG_HELP = """\
Keys of a config are set after the file: --config.optimizer.clip=0.5, --config.data.sources.0.path=FILE,
--config.init.vision=hf:FOLDER, --config.init.=run:FOLDER (the whole model),
--config.optimizer.rules="(('vision/.*', 'frozen'), ('.*', 1e-5))".
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
    in_and_out = (_import_hf, _export_hf, _inspect)
    for add in (_demo, _train, _plan, _tune, _extract, _eval, _score, _probe, _generate, *in_and_out):
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
    if args.command == "train" and not args.workdir and not args.print_config:
        parser.error("train: --workdir is missing: where the run's checkpoints, metrics.jsonl and config.json go")
    if args.command == "export-hf" and args.drop_last and args.what != "encoder":
        given = "(the default)" if args.what == "model" else ""
        parser.error(f"--drop-last does nothing for --what {args.what} {given}: say --what encoder, or leave it out")
    if overrides and not hasattr(args, "takes_overrides"):
        parser.error(f"{args.command} takes no config keys, but --config.{next(iter(overrides))} was given")
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
    parser.set_defaults(takes_overrides=True)


def _workdir(parser: argparse.ArgumentParser, what: str, default: str | None = None) -> None:
    parser.add_argument("--workdir", metavar="DIR", required=default is None, default=default, help=what)


def _demo(subparsers) -> None:
    parser = _command(
        subparsers, "demo", commands.demo,
        "the whole study in miniature: pretraining, stages 1a and 1b, SFT and DPO arms, probes, stage 3, one report",
        "Stopped and started again it continues.",
    )  # fmt: skip
    _workdir(parser, "where runs and report.html go (default runs/demo)", "runs/demo")
    parser.add_argument("--configs", metavar="DIR", help="another folder of stages and study.py than configs/demo")


def _train(subparsers) -> None:
    parser = _command(
        subparsers, "train", commands.train,
        "train one stage from a config; resumes by itself if the workdir holds a checkpoint", CONFIG_HELP,
    )  # fmt: skip
    _config(parser)
    _workdir(parser, "where the run's checkpoints, metrics.jsonl and config.json go", "")
    parser.add_argument("--print-config", action="store_true", help="print the complete config as JSON and stop")


def _plan(subparsers) -> None:
    parser = _command(
        subparsers, "plan", planning.plan,
        "compile a config's train step for a topology without the hardware: memory, FLOPs, traffic, what fits",
        f"Topologies: ACCELERATOR-NUMBER as their makers name them ({planning.EXAMPLES}).",
    )  # fmt: skip
    _config(parser)
    parser.add_argument(
        "--topology", metavar="NAME", help="what to compile for, as v5e-16 or h200-8 (default: the config's hardware)"
    )
    parser.add_argument(
        "--rows", type=_positive, default=0, metavar="N", help="global rows of a step (default: the config's)"
    )
    parser.add_argument("--search", action="store_true", help="look for the largest number of rows that fits")
    parser.add_argument("--sharding", action="store_true", help="also print where each parameter lies")
    parser.add_argument("--json", metavar="FILE", help="also write all figures")
    parser.add_argument(
        "--effort", choices=("O0", "O1", "full"), default="O1",
        help="of the compiler: O1 (default) takes a third of the time of full and a little more memory",
    )  # fmt: skip


def _tune(subparsers) -> None:
    parser = _command(
        subparsers, "tune", planning.tune,
        "time tile sizes of the attention kernels on the GPU or TPU at hand; later runs on its kind take the best",
        "The table is $PIVOT_TILES, or else pivot-jax/tiles.json in $XDG_CACHE_HOME (~/.cache).",
    )  # fmt: skip
    parser.add_argument(
        "--shape", metavar="SHAPE", action="append", required=True,
        help="ROWSxTOKENSxHEADS[/KEY_VALUE_HEADS]xWIDTH[:causal|full][:none|segments|branches]; may be given again. "
        "8x729x16x72 is a SigLIP So400m tower, 8x2048x14/2x64:causal:segments Qwen2.5 0.5B",
    )  # fmt: skip


def _extract(subparsers) -> None:
    parser = _command(
        subparsers, "extract", commands.extract,
        "write a run's encoder and projector as a pack, which other runs start from as pack:DIR",
    )  # fmt: skip
    _workdir(parser, "the run")
    _step(parser)
    parser.add_argument("--out", metavar="DIR", required=True, help="where the pack goes")


def _eval(subparsers) -> None:
    parser = _command(
        subparsers, "eval", commands.evaluate, "answer a benchmark's questions with a run, and score the answers",
        "A stopped evaluation goes on where it was. --config.eval.batch_size=8 and the like set how it is done. "
        "Answers that\nwere made under other settings are not used again; they are kept in NAME.others.jsonl.",
    )  # fmt: skip
    _workdir(parser, "the run")
    _step(parser)
    parser.add_argument("--benchmark", metavar="NAME", required=True, help="such as mmvp; a wrong name lists all")
    parser.add_argument("--data", metavar="DIR", required=True, help="the benchmark's files")
    parser.add_argument("--out", metavar="FILE", help="predictions (default WORKDIR/eval/NAME.jsonl)")
    parser.add_argument("--limit", type=_positive, default=0, metavar="N", help="only the first N questions")
    parser.add_argument("--max-new-tokens", type=_tokens, default=0, metavar="N", help="instead of the benchmark's own")
    parser.add_argument("--ranked", action="store_true", help="also rank the options by likelihood")
    parser.add_argument("--blank-images", action="store_true", help="the control: show a grey picture instead")
    parser.set_defaults(takes_overrides=True)


def _score(subparsers) -> None:
    parser = _command(subparsers, "score", commands.score, "score a file of predictions again")
    parser.add_argument("--predictions", metavar="FILE", required=True, help="what eval wrote, or another program")
    parser.add_argument("--benchmark", metavar="NAME", default="", help="whose scorer (default: the file says)")


def _generate(subparsers) -> None:
    parser = _command(subparsers, "generate", commands.generate, "answer a prompt about an image")
    _workdir(parser, "the run")
    _step(parser)
    parser.add_argument("--image", metavar="FILE", action="append", default=[], help="a picture; may be given again")
    parser.add_argument("--prompt", metavar="TEXT", default="", help="the question (default: describe the picture)")
    parser.add_argument("--max-new-tokens", type=_tokens, default=0, metavar="N", help="default: eval.max_new_tokens")
    parser.set_defaults(takes_overrides=True)


def _import_hf(subparsers) -> None:
    parser = _command(
        subparsers, "import-hf", hugging_face.import_hf,
        "a Hugging Face folder as a run (LLaVA) or as a pack (an encoder or a language model)",
        "Training needs no import: hf:FOLDER in a config's init reads the folder itself.",
    )  # fmt: skip
    parser.add_argument(
        "--folder", metavar="DIR", required=True, help="config.json and safetensors; or ORG/NAME on the hub"
    )
    _workdir(parser, "where the run or pack goes")
    parser.add_argument("--adapter", metavar="DIR", help="a LoRA of PEFT's on this model, to be merged into it")


def _export_hf(subparsers) -> None:
    parser = _command(
        subparsers, "export-hf", hugging_face.export_hf, "write a run as a folder that transformers loads"
    )
    _workdir(parser, "the run")
    _step(parser)
    parser.add_argument("--what", choices=hugging_face.PARTS, default="model", help="default model: everything")
    parser.add_argument("--out", metavar="DIR", required=True, help="where the folder goes")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32")
    parser.add_argument("--drop-last", action="store_true", help="encoder: leave out the block that no stage trains")
    parser.add_argument(
        "--overwrite", action="store_true", help="replace an earlier export (never a folder that holds anything else)"
    )


def _inspect(subparsers) -> None:
    parser = _command(
        subparsers, "inspect", inspecting.inspect,
        "the modules of a model with shapes and sizes, and what a config would train; reads no weights",
        "Of a config: what it would make and train. Of a run: what is saved, and what its config trains.",
    )  # fmt: skip
    parser.add_argument("place", metavar="PLACE", nargs="?", help="a run, a pack or a Hugging Face folder")
    _config(parser, required=False)
    _step(parser)
    parser.add_argument("--depth", type=_count, default=0, metavar="N", help="levels of the tree (default: all)")
    parser.add_argument("--json", action="store_true", help="print it as JSON")


def _probe(subparsers) -> None:
    parser = _command(subparsers, "probe", None, "what can be read from an encoder, and where its gradients land")
    kinds = parser.add_subparsers(dest="kind", metavar="KIND", required=True)
    classify = _command(
        kinds, "classify", probing.classify, "logistic probe on mean patch features",
        "Data: DIR/{train,val,test}/CLASS/*.jpg; without val a fifth of train is set aside to choose C on.",
    )  # fmt: skip
    _encoder(classify)
    classify.add_argument("--per-class", type=_positive, default=0, metavar="N", help="training images per class")
    segment = _command(
        kinds, "segment", probing.segment, "a head on frozen patch features: mean IoU and macro recall",
        "Data: DIR/{train,val,test}/NAME.jpg with class ids in DIR/{train,val,test}annot/NAME.png.",
    )  # fmt: skip
    _encoder(segment)
    segment.add_argument("--classes", metavar="NAMES", required=True, help="a,b,c in id order, or a file of lines")
    segment.add_argument("--ignore", type=_count, metavar="ID", help="id of unlabelled pixels")
    segment.add_argument("--head", choices=("mlp", "linear"), default="mlp")
    segment.add_argument("--seeds", type=_positive, default=3, metavar="N", help="heads to train (default 3)")
    gradmap = _command(kinds, "gradmap", probing.gradmap, "where the loss of an answer lands on the image")
    _workdir(gradmap, "the run")
    _step(gradmap)
    gradmap.add_argument("--image", metavar="FILE", required=True, help="a picture")
    gradmap.add_argument("--prompt", metavar="TEXT", required=True, help="the question about it")
    gradmap.add_argument("--answer", metavar="TEXT", required=True, help="the answer, or the chosen one of two")
    gradmap.add_argument("--rejected", metavar="TEXT", help="a rejected answer: the map of the preference loss")
    gradmap.add_argument("--norm", choices=("l1", "l2"), default="l1", help="size of a patch's gradient (default l1)")
    gradmap.add_argument(
        "--out", metavar="FILE.png", required=True, help="the picture; its numbers go beside it, as .npy"
    )
    align = _command(
        kinds, "align", probing.align, "mutual-kNN alignment with a language model's features of the captions"
    )
    _encoder(align, features=False)
    align.add_argument("--text-features", metavar="FILE.npy", required=True, help="float32 [items, layers, width]")
    align.add_argument("--k", type=_positive, default=10, metavar="N", help="neighbours (default 10)")


def _encoder(parser: argparse.ArgumentParser, features: bool = True) -> None:
    parser.add_argument(
        "--encoder", metavar="SOURCE", required=True, help="run:DIR[@STEP], pack:DIR, hf:DIR or hf:ORG/NAME"
    )
    parser.add_argument("--data", metavar="PATH", required=True, help="see below" if features else "LLaVA JSON")
    parser.add_argument("--out", metavar="FILE.json", help="also write the numbers there")
    if features:
        parser.add_argument("--features", choices=("vision", "projector"), default="vision", help="default vision")
        parser.add_argument("--seed", type=_count, default=0, metavar="N", help="of what is drawn (default 0)")


def _step(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--step", type=_count, metavar="N", help="checkpoint (default: the newest)")


def _count(text: str) -> int:
    return _whole(text, 0)


def _positive(text: str) -> int:
    return _whole(text, 1)


def _tokens(text: str) -> int:
    return _whole(text, 1, MOST_TOKENS)


def _whole(text: str, least: int, most: int = LARGEST) -> int:
    good = text.isascii() and text.isdigit()
    if not good or int(text) < least or int(text) > most:
        limit = f"of at least {least}" if most == LARGEST else f"between {least} and {most}"
        large = f"; the largest is {most}" if good and int(text) > LARGEST else ""
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number {limit}{large}")
    return int(text)
