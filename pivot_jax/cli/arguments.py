"""Commands, their options and their help texts."""

from __future__ import annotations

import argparse
import re

from pivot_jax.cli import commands, configs, hardware, hub, inspection, probes

OVERRIDE = re.compile(r"--config\.([^=]+)(?:=(.*))?", re.DOTALL)
MOST_TOKENS = 1 << 16  # of an answer; the limit of eval.max_new_tokens in config.check
LARGEST = (1 << 32) - 1  # of any other number; the largest seed
# as probe.alignment_metrics, which is imported only when the command runs
ALIGNMENT = ("mutual_knn", "cycle_knn", "lcs_knn", "edit_distance_knn", "cka", "unbiased_cka", "cknna")
EXPORTED = ("model", "encoder", "decoder", "adapter")
CONFIG_HELP = """\
Set keys of the config after the file: --config.optimizer.clip=0.5, --config.data.sources.0.path=FILE,
--config.init.vision=hf:FOLDER, --config.init.=run:FOLDER (the whole model), --config.init.vision= (without it),
--config.optimizer.rules="(('vision/.*', 'frozen'), ('.*', 1e-5))", --config.optimizer.rules.1.1=2e-5.
pivot_jax/config/base.py explains every key. An unknown key is an error."""


def build_parser(version: str) -> argparse.ArgumentParser:
    """The whole parser. ``run`` of every command's arguments is its function."""
    parser = argparse.ArgumentParser(
        prog="pivot-jax",
        description="Preference RL and SFT for multimodal LLMs, and their effect on the vision encoder.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"pivot-jax {version}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    checkpoints = (_import_hf, _export_hf, _inspect)
    for add in (
        _demo,
        _configs,
        _train,
        _report,
        _plan,
        _tune,
        _extract,
        _eval,
        _score,
        _probe,
        _generate,
        *checkpoints,
    ):
        add(subparsers)
    return parser


def parse(parser: argparse.ArgumentParser, argv: list[str]) -> tuple[argparse.Namespace, dict[str, str]]:
    """Options, and the overrides ``--config.key=value`` or ``--config.key value`` among ``argv``.

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
        parser.error("train: --workdir is missing; it is the folder for checkpoints, metrics.jsonl and config.json")
    if args.command == "export-hf" and args.drop_last and args.what != "encoder":
        default = " (the default)" if args.what == "model" else ""
        parser.error(f"--drop-last has no effect on --what {args.what}{default}; use --what encoder, or leave it out")
    if overrides and not hasattr(args, "takes_overrides"):
        parser.error(f"{args.command} takes no config keys; leave out --config.{next(iter(overrides))}")
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
    parser.add_argument(
        "--config", metavar="FILE[:ARG]", required=required,
        help="config file, name of a packaged config (`pivot-jax configs` lists them), or a run's config.json",
    )  # fmt: skip
    parser.set_defaults(takes_overrides=True)


def _workdir(parser: argparse.ArgumentParser, what: str, default: str | None = None) -> None:
    parser.add_argument("--workdir", metavar="DIR", required=default is None, default=default, help=what)


def _demo(subparsers) -> None:
    parser = _command(
        subparsers, "demo", commands.demo,
        "the study in miniature: pretraining, stages 1a and 1b, SFT, DPO and GRPO arms, probes, stage 3, one report",
        "A stopped demo resumes when it is started again.",
    )  # fmt: skip
    _workdir(parser, "folder for the runs and report.html (default runs/demo)", "runs/demo")
    parser.add_argument(
        "--configs",
        metavar="DIR",
        help="folder with study.py and the configs (default configs/demo, or else the packaged demo)",
    )


def _configs(subparsers) -> None:
    parser = _command(
        subparsers, "configs", configs.configs, "list the configs of the package, or copy one to edit",
        "--config takes these names wherever no file has them. A copy comes with the files that it includes; "
        "no file of\nyours is replaced.",
    )  # fmt: skip
    parser.add_argument("--copy", metavar="NAME", help="config to copy, pivot/stage1b.py, or folder of them, demo")
    parser.add_argument("--to", metavar="DIR", help="folder for the copy (default configs)")


def _train(subparsers) -> None:
    parser = _command(
        subparsers, "train", commands.train,
        "train one stage from a config; resumes automatically if the workdir holds a checkpoint", CONFIG_HELP,
    )  # fmt: skip
    _config(parser)
    _workdir(parser, "folder for the run's checkpoints, metrics.jsonl and config.json", "")
    parser.add_argument("--print-config", action="store_true", help="print the complete config as JSON and stop")


def _report(subparsers) -> None:
    parser = _command(
        subparsers, "report", commands.report,
        "write a page of a run, finished or not: its curves, and of online RL sampled responses with their rewards",
        "The page is one HTML file with its images in it.",
    )  # fmt: skip
    _workdir(parser, "the run")
    parser.add_argument("--out", metavar="FILE.html", help="the page (default WORKDIR/report.html)")
    parser.add_argument("--rollouts", type=_positive, default=5, metavar="N", help="rollouts to show (default 5)")


def _plan(subparsers) -> None:
    parser = _command(
        subparsers, "plan", hardware.plan,
        "compile a config's train step for a topology without its hardware: memory, FLOPs, traffic, what fits",
        f"Topologies: ACCELERATOR-NUMBER, by the vendors' names ({hardware.EXAMPLES}).",
    )  # fmt: skip
    _config(parser)
    parser.add_argument(
        "--topology", metavar="NAME", help="hardware to compile for, such as v5e-16 or h200-8 (default: the config's)"
    )
    parser.add_argument(
        "--rows", type=_positive, default=0, metavar="N", help="rows of a global batch (default: the config's)"
    )
    parser.add_argument("--search", action="store_true", help="find the largest batch that fits")
    parser.add_argument("--sharding", action="store_true", help="also print each parameter's sharding")
    parser.add_argument("--json", metavar="FILE", help="also write all numbers")
    parser.add_argument(
        "--effort", choices=("O0", "O1", "full"), default="O1",
        help="compiler's optimisation: O1 (default) takes a third of the time of full, and finds slightly more memory",
    )  # fmt: skip


def _tune(subparsers) -> None:
    parser = _command(
        subparsers, "tune", hardware.tune,
        "time tile sizes of the attention kernels on the local GPU or TPU; later runs on its kind use the best",
        "The results are stored in $PIVOT_TILES, by default pivot-jax/tiles.json in $XDG_CACHE_HOME (~/.cache).",
    )  # fmt: skip
    parser.add_argument(
        "--shape", metavar="SHAPE", action="append", required=True,
        help="ROWSxTOKENSxHEADS[/KEY_VALUE_HEADS]xWIDTH[:causal|full][:none|segments|branches]; repeatable. "
        "8x729x16x72 is a SigLIP So400m tower, 8x2048x14/2x64:causal:segments Qwen2.5 0.5B",
    )  # fmt: skip


def _extract(subparsers) -> None:
    parser = _command(
        subparsers, "extract", commands.extract,
        "write a run's encoder and projector as a pack; other runs start from it as pack:DIR",
    )  # fmt: skip
    _workdir(parser, "the run")
    _step(parser)
    parser.add_argument("--out", metavar="DIR", required=True, help="folder for the pack")


def _eval(subparsers) -> None:
    parser = _command(
        subparsers, "eval", commands.evaluate, "answer a benchmark's questions with a run, and score the answers",
        "A stopped evaluation resumes. --config.eval.KEY and --config.seed change its settings; no other key of a\n"
        "trained run's config can be changed. Answers made under other settings are not reused; they are kept in\n"
        "NAME.others.jsonl.",
    )  # fmt: skip
    _workdir(parser, "the run")
    _step(parser)
    parser.add_argument("--benchmark", metavar="NAME", required=True, help="such as mmvp; a wrong name lists all")
    parser.add_argument("--data", metavar="PATH", required=True, help="the benchmark's file or folder")
    parser.add_argument("--out", metavar="FILE", help="predictions file (default WORKDIR/eval/NAME.jsonl)")
    parser.add_argument("--limit", type=_positive, default=0, metavar="N", help="only the first N questions")
    parser.add_argument("--max-new-tokens", type=_tokens, default=0, metavar="N", help="default: the benchmark's")
    parser.add_argument("--ranked", action="store_true", help="also rank the options by likelihood")
    parser.add_argument("--blank-images", action="store_true", help="the control: replace every image by a grey one")
    parser.set_defaults(takes_overrides=True)


def _score(subparsers) -> None:
    parser = _command(subparsers, "score", commands.score, "score a file of predictions again")
    parser.add_argument(
        "--predictions", metavar="FILE", required=True, help="predictions, from eval or another program"
    )
    parser.add_argument("--benchmark", metavar="NAME", default="", help="whose scorer to use (default: as in the file)")


def _generate(subparsers) -> None:
    parser = _command(subparsers, "generate", commands.generate, "answer a prompt about an image")
    _workdir(parser, "the run")
    _step(parser)
    parser.add_argument("--image", metavar="FILE", action="append", default=[], help="an image; repeatable")
    parser.add_argument("--prompt", metavar="TEXT", default="", help="the question (default: describe the image)")
    parser.add_argument("--max-new-tokens", type=_tokens, default=0, metavar="N", help="default: eval.max_new_tokens")
    parser.set_defaults(takes_overrides=True)


def _import_hf(subparsers) -> None:
    parser = _command(
        subparsers, "import-hf", hub.import_hf,
        "import a Hugging Face folder as a run (LLaVA) or as a pack (an encoder or a language model)",
        "Training needs no import: hf:FOLDER in a config's init reads the folder directly.",
    )  # fmt: skip
    parser.add_argument(
        "--folder", metavar="DIR", required=True, help="folder of config.json and safetensors, or ORG/NAME on the hub"
    )
    _workdir(parser, "folder for the run or pack")
    parser.add_argument("--adapter", metavar="DIR", help="a PEFT LoRA on this model, to merge into it")
    parser.add_argument(
        "--chat-template", metavar="FILE", default="", help="Jinja chat template, in place of the folder's own"
    )
    parser.add_argument("--allow-non-finite", action="store_true", help="read weights that are NaN or infinite too")


def _export_hf(subparsers) -> None:
    parser = _command(subparsers, "export-hf", hub.export_hf, "write a run as a folder that transformers loads")
    _workdir(parser, "the run")
    _step(parser)
    parser.add_argument("--what", choices=EXPORTED, default="model", help="part to export (default model)")
    parser.add_argument("--out", metavar="DIR", required=True, help="the new folder")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32")
    parser.add_argument(
        "--drop-last", action="store_true", help="encoder: without its last block, which no stage trains"
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace an earlier export, never a folder that holds anything else"
    )


def _inspect(subparsers) -> None:
    parser = _command(
        subparsers, "inspect", inspection.inspect,
        "show the modules of a model with shapes and sizes, and the parameters that a config trains; reads no weights",
        "For a config: the model that it would build and train. For a run: the saved parameters, and what its config "
        "trains.",
    )  # fmt: skip
    parser.add_argument("weights", metavar="FOLDER", nargs="?", help="a run, a pack or a Hugging Face folder")
    _config(parser, required=False)
    _step(parser)
    parser.add_argument("--depth", type=_count, default=0, metavar="N", help="levels of the tree (default: all)")
    parser.add_argument("--json", action="store_true", help="print it as JSON")


def _probe(subparsers) -> None:
    parser = _command(
        subparsers, "probe", None, "probe an encoder's features, or map a model's gradients onto an image"
    )
    kinds = parser.add_subparsers(dest="kind", metavar="KIND", required=True)
    classify = _command(
        kinds, "classify", probes.classify, "fit a logistic probe on mean patch features",
        "Data: DIR/{train,val,test}/CLASS/*.jpg. Without val, C is chosen on a fifth of train.",
    )  # fmt: skip
    _encoder(classify)
    classify.add_argument("--per-class", type=_positive, default=0, metavar="N", help="training images per class")
    segment = _command(
        kinds, "segment", probes.segment, "train a head on frozen patch features: mean IoU and macro recall",
        "Data: DIR/{train,val,test}/NAME.jpg with class ids in DIR/{train,val,test}annot/NAME.png.",
    )  # fmt: skip
    _encoder(segment)
    segment.add_argument("--classes", metavar="NAMES", required=True, help="a,b,c in id order, or a file of lines")
    segment.add_argument("--ignore", type=_count, metavar="ID", help="id of unlabelled pixels")
    segment.add_argument("--head", choices=("mlp", "linear"), default="mlp")
    segment.add_argument("--seeds", type=_positive, default=3, metavar="N", help="heads to train (default 3)")
    gradmap = _command(kinds, "gradmap", probes.gradmap, "map the gradient of an answer's loss onto the image")
    _workdir(gradmap, "the run")
    _step(gradmap)
    gradmap.add_argument("--image", metavar="FILE", required=True, help="an image")
    gradmap.add_argument("--prompt", metavar="TEXT", required=True, help="the question about it")
    gradmap.add_argument("--answer", metavar="TEXT", required=True, help="the answer, or the chosen one of two")
    gradmap.add_argument("--rejected", metavar="TEXT", help="a rejected answer, for the map of the preference loss")
    gradmap.add_argument("--norm", choices=("l1", "l2"), default="l1", help="norm of a patch's gradient (default l1)")
    gradmap.add_argument(
        "--out",
        metavar="FILE.png",
        required=True,
        help="the map as an image; its numbers go into a .npy file beside it",
    )
    align = _command(
        kinds, "align", probes.align,
        "measure how well an encoder's features of images agree with a language model's features of their captions",
        "The score is that of the best pair of layers (Huh et al. 2024), beside what shuffled captions give.",
    )  # fmt: skip
    _encoder(align, features=False)
    words = align.add_mutually_exclusive_group(required=True)
    words.add_argument("--text-model", metavar="SOURCE", help="language model to read the captions: run:DIR or hf:DIR")
    words.add_argument(
        "--text-features", metavar="FILE.npy", help="its features in place of a model: float32 [items, layers, width]"
    )
    align.add_argument("--pool", choices=("mean", "last"), default="mean", help="a caption's tokens (default mean)")
    align.add_argument("--metric", choices=ALIGNMENT, default=ALIGNMENT[0], help=f"default {ALIGNMENT[0]}")
    align.add_argument("--k", type=_positive, default=10, metavar="N", help="neighbours (default 10)")
    align.add_argument(
        "--clamp", choices=("exact", "items", "none"), default="exact",
        help="clamp activations at their 95 %% quantile (exact, default), at the mean of the items' quantiles, or not",
    )  # fmt: skip


def _encoder(parser: argparse.ArgumentParser, features: bool = True) -> None:
    parser.add_argument(
        "--encoder", metavar="SOURCE", required=True, help="run:DIR[@STEP], pack:DIR, hf:DIR or hf:ORG/NAME"
    )
    parser.add_argument("--data", metavar="PATH", required=True, help="see below" if features else "LLaVA JSON")
    parser.add_argument("--out", metavar="FILE.json", help="also write the numbers to this file")
    if features:
        parser.add_argument("--features", choices=("vision", "projector"), default="vision", help="default vision")
        parser.add_argument("--seed", type=_count, default=0, metavar="N", help="random seed (default 0)")


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
