"""``probe classify | robustness | segment | align | forgetting | geometry``: what can be read from an encoder."""

from __future__ import annotations

import argparse
import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pivot_jax.cli import inputs, outputs, tables
from pivot_jax.words import counted

if TYPE_CHECKING:
    from pivot_jax.eval.statistics import Interval

Overrides = dict[str, str]
PIXELS = 224  # of rendered views for an encoder that reads images of any size


def classify(args: argparse.Namespace, overrides: Overrides) -> None:
    from pivot_jax import probe
    from pivot_jax.train.open import open_encoder

    _check(args)
    settings = _classifier(args)
    encoder = open_encoder(args.encoder)
    found = probe.classify(
        encoder, args.data, features=_features(args, args.pool), settings=settings, per_class=args.per_class,
        seed=args.seed, cache=args.cache,
    )  # fmt: skip
    result, images = found.result, found.images
    sizes = f"{counted(len(found.classes), 'class', 'classes')}, {counted(images['test'], 'test image')}"
    print(f"{args.encoder}, {_named(args)}, {args.method}: {sizes}")
    _show({"accuracy": (result.accuracy, result.interval)})
    if result.chosen:
        where = (
            "the test images" if args.choose_on_test else f"{counted(images['val'], 'image')} that are no test images"
        )
        print(f"{result.chosen}, chosen on {where}")
    _flags(result.flags)
    record = {"accuracy": result.accuracy, "low": result.interval.low, "high": result.interval.high, "C": result.C}
    record |= {"method": args.method, "chosen": result.chosen, "grid": result.grid, "flags": result.flags}
    _write(args, record | {"C": None if math.isnan(result.C) else result.C, "encoder": args.encoder})


def _classifier(args: argparse.Namespace) -> Any:
    from pivot_jax.probe.classification import GRID, PAPER_GRID, ProbeSettings
    from pivot_jax.probe.linear_probe import LinearTraining

    grid = {"wide": GRID, "paper": PAPER_GRID}.get(args.C, args.C)
    training = LinearTraining(args.epochs, args.batch_size, args.learning_rates, args.optimizer, args.weight_decay)
    return ProbeSettings(args.method, grid, args.k, training, args.choose_on_test)


def _features(args: argparse.Namespace, pool: str) -> Any:
    from pivot_jax.probe.feature_settings import FeatureSettings

    return FeatureSettings(args.features, args.layer, pool)


def _named(args: argparse.Namespace) -> str:
    return f"{args.features} features" + ("" if args.layer is None else f" of block {args.layer}")


def robustness(args: argparse.Namespace, overrides: Overrides) -> None:
    """Accuracy of a probe of clean images on changed ones."""
    from pivot_jax import probe
    from pivot_jax.train.open import open_encoder

    _check(args)
    settings = _classifier(args)
    encoder = open_encoder(args.encoder)
    found = probe.robustness(
        encoder, args.data, features=_features(args, args.pool), settings=settings, per_class=args.per_class,
        seed=args.seed, cache=args.cache,
    )  # fmt: skip
    print(f"{args.encoder}, {_named(args)}, {args.method}: accuracy on changed images ({found.chosen})")
    table = tables.table("", "accuracy %", "95 % interval", "minus clean", "95 % interval")
    table.add_row("clean", f"{100 * found.clean.value:.2f}", tables.interval(found.clean.low, found.clean.high), "", "")
    rows = []
    for (kind, level), one in found.changed.items():
        drop = found.drops[kind, level]
        ends = tables.interval(one.low, one.high), f"{100 * drop.value:+.2f}", tables.interval(drop.low, drop.high)
        table.add_row(f"{kind} {level:g}", f"{100 * one.value:.2f}", *ends)
        rows.append({"kind": kind, "level": level, "accuracy": one.value, "low": one.low, "high": one.high,
                     "drop": drop.value, "drop_low": drop.low, "drop_high": drop.high})  # fmt: skip
    tables.console().print(table)
    _flags(found.flags)
    clean = {"accuracy": found.clean.value, "low": found.clean.low, "high": found.clean.high}
    _write(args, clean | {"changed": rows, "chosen": found.chosen, "flags": found.flags, "encoder": args.encoder})


def forgetting(args: argparse.Namespace, overrides: Overrides) -> None:
    """Zero-shot accuracy and retrieval of the encoders between the original and the trained one."""
    from pivot_jax import probe
    from pivot_jax.train.open import open_encoder

    _check(args)
    found = probe.forgetting(
        open_encoder(args.encoder), open_encoder(args.original), probe.open_text_encoder(args.original),
        classes=args.classes, captions=args.captions, template=args.template, weights=args.weights, k=args.k,
    )  # fmt: skip
    print(f"{args.encoder} with the text tower of {args.original}")
    table = tables.table("", "weight", "share %", "95 % interval", "minus original", "95 % interval")
    rows = []
    for name, by_weight in found.scores.items():
        for weight, one in by_weight.items():
            change = found.changes[name][weight]
            ends = tables.interval(one.low, one.high), tables.interval(change.low, change.high)
            table.add_row(name, f"{weight:g}", f"{100 * one.value:.2f}", ends[0], f"{100 * change.value:+.2f}", ends[1])
            rows.append({"score": name, "weight": weight, "value": one.value, "low": one.low, "high": one.high,
                         "change": change.value, "change_low": change.low, "change_high": change.high})  # fmt: skip
    tables.console().print(table)
    _write(args, {"scores": rows, "encoder": args.encoder, "original": args.original, "k": args.k})


def geometry(args: argparse.Namespace, overrides: Overrides) -> None:
    """Depth and correspondence on rendered views."""
    from pivot_jax import probe
    from pivot_jax.train.open import open_encoder

    _check(args)
    encoder = open_encoder(args.encoder)
    side = args.side or getattr(encoder.module.config.vision, "image_size", 0) or PIXELS
    sizes = {"train": 2 * args.images, "val": max(1, args.images // 3), "test": args.images} if args.images else None
    views = probe.scene_views(side, args.seed, sizes)
    settings = probe.FeatureSettings(args.features, args.layer, "none")
    depth, match = probe.depth(encoder, views, settings), probe.correspondence(encoder, views["test"], settings)
    print(f"{args.encoder}, {_named(args)}: {counted(len(views['test'].images), 'pair')} of views of {side} pixels")
    table = tables.table("", "value %", "95 % interval", "without features %")
    rows = (
        ("distance within a factor of 1.25", depth.within, depth.position_within),
        ("the same, on things", depth.things, depth.position_things),
        ("relative error of the distance", depth.error, None),
        ("most similar patch is on the same thing", match.value, match.same_place),
    )
    for name, one, without in rows:
        other = "–" if without is None else f"{100 * without:.1f}"
        table.add_row(name, f"{100 * one.value:.1f}", tables.interval(one.low, one.high), other)
    tables.console().print(table)
    print(f"a random patch is on the same thing in {100 * match.chance:.1f} %")
    record = {
        name: {"value": one.value, "low": one.low, "high": one.high, "without": other} for name, one, other in rows
    }
    _write(args, {"scores": record, "chance": match.chance, "penalty": depth.penalty, "encoder": args.encoder})


def segment(args: argparse.Namespace, overrides: Overrides) -> None:
    from pivot_jax import probe
    from pivot_jax.train.open import open_encoder

    _check(args)
    classes = inputs.class_names(args.classes) if args.classes else ()
    settings = _heads(args)
    encoder = open_encoder(args.encoder)
    found = probe.segment(
        encoder, args.data, classes, features=_features(args, "none"), settings=settings, ignore=args.ignore,
        seed=args.seed, cache=args.cache,
    )  # fmt: skip
    sizes = f"{counted(len(found.overlap[0]), 'test image')}, {counted(len(settings.seeds), 'seed')}"
    print(f"{args.encoder}, {_named(args)}: {sizes}")
    per_class = {f"IoU of {name}": (value, None) for name, value in found.per_class.items()}
    _show(
        {"mean IoU": (found.miou, found.interval), "macro recall": (found.recall, found.recall_interval), **per_class}
    )
    _flags(found.flags)
    record = {"miou": found.miou, "low": found.interval.low, "high": found.interval.high, "recall": found.recall}
    _write(args, record | {"per_class": found.per_class, "seeds": found.seeds, "encoder": args.encoder})


def _heads(args: argparse.Namespace) -> Any:
    """The settings of the protocol; options replace its parts."""
    from pivot_jax.probe.segmentation import PATCH_SEG, SegmentSettings

    settings = PATCH_SEG if args.protocol == "patch-seg" else SegmentSettings()
    settings = replace(settings, head=args.head or settings.head)
    return replace(settings, seeds=tuple(range(args.seeds))) if args.seeds else settings


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
    found = probe.align(encoder, args.data, text, **settings, cache=args.cache)
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
