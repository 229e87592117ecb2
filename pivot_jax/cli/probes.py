"""``probe classify | segment | gradmap | align``: what can be read from an encoder, and where its gradients fall."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pivot_jax import files
from pivot_jax.cli import inputs, outputs, tables
from pivot_jax.errors import RowError, UserError

if TYPE_CHECKING:
    import numpy as np

    from pivot_jax.eval.statistics import Interval
    from pivot_jax.probe.splits import Splits

Overrides = dict[str, str]


def classify(args: argparse.Namespace, overrides: Overrides) -> None:
    import numpy as np

    from pivot_jax.probe import classify as probe
    from pivot_jax.probe import folders
    from pivot_jax.train.open import open_encoder

    _check(args.out)
    splits, names = folders.classification(args.data, args.seed)
    if args.per_class:
        labels = np.asarray(names)[np.asarray(splits["train"].labels)]  # names, for the message
        splits["train"] = splits["train"].take(probe.balanced(labels, args.per_class, seed=args.seed))
    encoder = open_encoder(args.encoder)
    labels_of = {split: np.asarray(found.labels) for split, found in splits.items()}
    found = probe.probe(_splits(encoder, args.features, splits, labels_of, "mean"), seed=args.seed)
    print(f"{args.encoder}, {args.features} features: {len(names)} classes, {len(splits['test'])} test images")
    _show({"accuracy": (found.accuracy, found.interval)})
    print(f"C = {found.C:g}, chosen on {len(splits['val'])} images that are not test images")
    _flags(found.flags)
    record = {"accuracy": found.accuracy, "low": found.interval.low, "high": found.interval.high, "C": found.C}
    _write(args.out, record | {"grid": found.grid, "flags": found.flags, "encoder": args.encoder})


def segment(args: argparse.Namespace, overrides: Overrides) -> None:
    from pivot_jax.data.processing.images import preset_of
    from pivot_jax.probe import folders
    from pivot_jax.probe import segment as probe
    from pivot_jax.train.open import open_encoder

    _check(args.out)
    classes = inputs.class_names(args.classes)
    splits = folders.segmentation(args.data, args.seed)
    encoder = open_encoder(args.encoder)
    if not preset_of(encoder.geometry.preset).squash:
        raise UserError(
            f"preset '{encoder.geometry.preset}' crops its images, so the masks would not fit; probe an encoder whose "
            "preset squashes them, such as siglip"
        )
    size = encoder.geometry.size
    masks = {split: folders.masks(found.labels, size) for split, found in splits.items()}  # type: ignore[arg-type]
    data = _splits(encoder, args.features, splits, masks, "none")
    found = probe.probe(data, classes=classes, head=args.head, seeds=tuple(range(args.seeds)), ignore=args.ignore)
    print(f"{args.encoder}, {args.features} features: {len(splits['test'])} test images, {args.seeds} seeds")
    per_class = {f"IoU of {name}": (value, None) for name, value in found.per_class.items()}
    _show(
        {"mean IoU": (found.miou, found.interval), "macro recall": (found.recall, found.recall_interval), **per_class}
    )
    _flags(found.flags)
    record = {"miou": found.miou, "low": found.interval.low, "high": found.interval.high, "recall": found.recall}
    _write(args.out, record | {"per_class": found.per_class, "seeds": found.seeds, "encoder": args.encoder})


def gradmap(args: argparse.Namespace, overrides: Overrides) -> None:
    """Map of −log p(answer), or, with ``--rejected``, of −(log p(chosen) − log p(rejected))."""
    import numpy as np
    from PIL import Image

    from pivot_jax.probe import gradmap as probe
    from pivot_jax.train.open import open_run

    out = outputs.file(args.out, "--out", inputs.IMAGE_SUFFIXES)
    inputs.image("--image", args.image)
    inputs.question(args.prompt)
    _check_answers(args.answer, args.rejected)
    run = open_run(args.workdir, args.step)
    image, grid = probe.question_map(run, args.image, args.prompt, args.answer, args.rejected, norm=args.norm)
    shown = probe.overlay(np.asarray(Image.fromarray(image).resize((384, 384))), grid)
    numbers = out.with_suffix(".npy")
    with files.whole(out) as partial:
        Image.fromarray(shown).save(partial)
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
    """Mutual-kNN alignment of every encoder block with every layer of a language model's text features."""
    import numpy as np

    from pivot_jax.data import sources
    from pivot_jax.probe import align as probe
    from pivot_jax.probe import features, folders
    from pivot_jax.train.open import open_encoder

    _check(args.out)
    inputs.file("--text-features", args.text_features)
    source = sources.read({"format": "llava", "path": str(inputs.file("--data", args.data))})
    try:
        examples = [source[index] for index in range(len(source))]
    except RowError as error:
        raise UserError(
            f"--data {args.data}: {error}; LLaVA rows with 'image' and 'conversations' are needed"
        ) from None
    if bare := [example.id for example in examples if not example.images]:
        raise UserError(f"{args.data}: row '{bare[0]}' has no image; every row needs one to compare with its text")
    paths = tuple(Path(example.images[0]) for example in examples)
    try:
        text = np.load(args.text_features)
    except (OSError, ValueError) as error:
        raise UserError(
            f"{args.text_features}: not a .npy file of numbers; write float32 [items, layers, width] with numpy.save"
        ) from error
    if text.ndim != 3 or len(text) != len(paths):
        raise UserError(
            f"{args.text_features}: shape {text.shape}; [{len(paths)}, layers, width] is needed for {args.data}"
        )
    if not args.k < len(paths):
        raise UserError(
            f"--k {args.k}: {args.data} has {len(paths)} items; an item has at most {len(paths) - 1} others"
        )
    encoder = open_encoder(args.encoder)
    images = folders.ImageFiles(paths, encoder.geometry)
    layers = features.extract(features.blocks_encoder(encoder.module), encoder.params, images, pool="none")
    found = probe.align(layers, text, k=args.k)
    print(f"{args.encoder} and {args.text_features}: {len(paths)} items, k = {args.k}")
    block, layer = found.layers
    print(f"alignment {found.score:.4f} (block {block}, text layer {layer}; chance {found.chance:.4f})")
    record = {"score": found.score, "layers": found.layers, "chance": found.chance, "table": found.table.tolist()}
    _write(args.out, record)


def _splits(encoder: Any, kind: str, splits: dict[str, Any], labels: dict[str, np.ndarray], pool: str) -> Splits:
    """Features of the splits' images, with their labels."""
    from pivot_jax.probe import features, folders
    from pivot_jax.probe.splits import Labelled, Splits

    if kind == "projector" and "projector" not in encoder.params:
        raise UserError(f"--features projector: {encoder.name} has only the encoder; use --features vision")
    make = {"vision": features.vit_encoder, "projector": features.projector_encoder}[kind]
    encode, data = make(encoder.module), {}
    for split in ("train", "val", "test"):
        images = folders.ImageFiles(splits[split].images, encoder.geometry)
        found = features.extract(encode, encoder.params, images, pool=pool, label=split)
        data[split] = Labelled(found, labels[split])
    return Splits(**data)


def _show(values: dict[str, tuple[float, Interval | None]]) -> None:
    table = tables.table("", "%", "95 % interval")
    for name, (value, bounds) in values.items():
        table.add_row(name, f"{100 * value:.2f}", tables.interval(bounds.low, bounds.high) if bounds else "")
    tables.console().print(table)


def _flags(flags: tuple[str, ...]) -> None:
    for flag in flags:
        print(f"note: {flag}")


def _check(out: str | None) -> None:
    if out:
        outputs.file(out, "--out")


def _write(out: str | None, record: dict[str, Any]) -> None:
    if out:
        files.write_text(Path(out), json.dumps(record, indent=1))
