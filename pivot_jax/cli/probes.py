"""``probe classify | segment | gradmap | align``: what can be read from an encoder, and where its gradients fall."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from pivot_jax import files
from pivot_jax.cli import inputs, outputs, tables
from pivot_jax.errors import UserError
from pivot_jax.words import counted

if TYPE_CHECKING:
    from pivot_jax.eval.statistics import Interval

Overrides = dict[str, str]


def classify(args: argparse.Namespace, overrides: Overrides) -> None:
    from pivot_jax import probe
    from pivot_jax.train.open import open_encoder

    _check(args)
    encoder = open_encoder(args.encoder)
    found = probe.classify(encoder, args.data, kind=args.features, per_class=args.per_class, seed=args.seed)
    result, images = found.result, found.images
    sizes = f"{counted(len(found.classes), 'class', 'classes')}, {counted(images['test'], 'test image')}"
    print(f"{args.encoder}, {args.features} features: {sizes}")
    _show({"accuracy": (result.accuracy, result.interval)})
    print(f"C = {result.C:g}, chosen on {counted(images['val'], 'image')} that are not test images")
    _flags(result.flags)
    record = {"accuracy": result.accuracy, "low": result.interval.low, "high": result.interval.high, "C": result.C}
    _write(args, record | {"grid": result.grid, "flags": result.flags, "encoder": args.encoder})


def segment(args: argparse.Namespace, overrides: Overrides) -> None:
    from pivot_jax import probe
    from pivot_jax.train.open import open_encoder

    _check(args)
    classes = inputs.class_names(args.classes)
    encoder = open_encoder(args.encoder)
    settings = {"kind": args.features, "head": args.head, "ignore": args.ignore, "seeds": args.seeds}
    found = probe.segment(encoder, args.data, classes, seed=args.seed, **settings)
    sizes = f"{counted(len(found.overlap[0]), 'test image')}, {counted(args.seeds, 'seed')}"
    print(f"{args.encoder}, {args.features} features: {sizes}")
    per_class = {f"IoU of {name}": (value, None) for name, value in found.per_class.items()}
    _show(
        {"mean IoU": (found.miou, found.interval), "macro recall": (found.recall, found.recall_interval), **per_class}
    )
    _flags(found.flags)
    record = {"miou": found.miou, "low": found.interval.low, "high": found.interval.high, "recall": found.recall}
    _write(args, record | {"per_class": found.per_class, "seeds": found.seeds, "encoder": args.encoder})


def gradmap(args: argparse.Namespace, overrides: Overrides) -> None:
    """Map of −log p(answer), or, with ``--rejected``, of −(log p(chosen) − log p(rejected))."""
    import numpy as np
    from PIL import Image

    from pivot_jax.probe import gradient_maps as probe
    from pivot_jax.train.open import open_run

    out = outputs.file(args.out, "--out", inputs.IMAGE_SUFFIXES, _command(args))
    numbers = out.with_suffix(".npy")
    if numbers.exists() and not out.exists():
        raise outputs.not_ours(f"--out {args.out}: its {numbers.name}", _command(args))
    inputs.image("--image", args.image)
    inputs.question(args.prompt)
    _check_answers(args.answer, args.rejected)
    run = open_run(args.workdir, args.step)
    image, grid = probe.question_map(run, args.image, args.prompt, args.answer, args.rejected, norm=args.norm)
    shown = probe.overlay(np.asarray(Image.fromarray(image).resize((384, 384))), grid)
    outputs.image(out, _command(args), shown)
    with files.whole(numbers) as partial:
        np.save(partial, grid)
    print(f"{out}: {grid.shape[0]} x {grid.shape[1]} patches; the numbers are in {numbers}")


def _check_answers(answer: str, rejected: str | None) -> None:
    for option, text in (("--answer", answer), ("--rejected", rejected)):
        if text is not None and not text.strip():
            raise UserError(f"{option}: empty; the map shows the loss of the answer's words")
    if answer == rejected:
        raise UserError("--rejected: the same as --answer; their preference loss has no gradient, so there is no map")


def align(args: argparse.Namespace, overrides: Overrides) -> None:
    """Alignment of every encoder block with every layer of a language model, or of its stored features."""
    from pivot_jax import probe
    from pivot_jax.train.open import open_encoder, open_language_model

    _check(args)
    if args.text_features:
        inputs.file("--text-features", args.text_features)
    inputs.file("--data", args.data)
    encoder = open_encoder(args.encoder)
    text = args.text_features or open_language_model(args.text_model)
    settings = {"metric": args.metric, "k": args.k, "pool": args.pool, "clamp": args.clamp}
    found = probe.align(encoder, args.data, text, **settings)
    read = args.text_features or f"{args.text_model} ({args.pool} of tokens)"
    print(f"{args.encoder} and {read}: {args.metric}" + (f", k = {args.k}" if "knn" in args.metric else ""))
    block, layer = found.layers
    print(f"alignment {found.score:.4f} (block {block}, text layer {layer}; chance {found.chance:.4f})")
    bounds = found.interval
    if bounds:
        print(f"95 % interval of these two layers [{bounds.low:.4f}, {bounds.high:.4f}], a jackknife over items")
    else:
        print("no interval: too few items for a jackknife")
    record = {"score": found.score, "layers": found.layers, "chance": found.chance, "table": found.table.tolist()}
    ends = {"low": bounds.low, "high": bounds.high} if bounds else {}
    _write(args, record | ends | settings | {"encoder": args.encoder, "text": args.text_features or args.text_model})


def _show(values: dict[str, tuple[float, Interval | None]]) -> None:
    table = tables.table("", "%", "95 % interval")
    for name, (value, bounds) in values.items():
        table.add_row(name, f"{100 * value:.2f}", tables.interval(bounds.low, bounds.high) if bounds else "")
    tables.console().print(table)


def _flags(flags: tuple[str, ...]) -> None:
    for flag in flags:
        print(f"note: {flag}")


def _command(args: argparse.Namespace) -> str:
    return f"pivot-jax probe {args.kind}"


def _check(args: argparse.Namespace) -> None:
    if args.out:
        outputs.file(args.out, "--out", command=_command(args))


def _write(args: argparse.Namespace, record: dict[str, Any]) -> None:
    if args.out:
        outputs.record(args.out, _command(args), record)
