"""``probe classify | segment | gradmap | align``: what can be read from an encoder, and where its gradients land."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pivot_jax.cli import given, places
from pivot_jax.errors import RowError, UserError

if TYPE_CHECKING:
    import numpy as np

Overrides = dict[str, str]


def classify(args: argparse.Namespace, overrides: Overrides) -> None:
    import numpy as np

    from pivot_jax.probe import classify as probe
    from pivot_jax.probe import folders
    from pivot_jax.train.open import open_encoder

    _check(args.out)
    splits, names = folders.classification(args.data, args.seed)
    if args.per_class:
        labels = np.asarray(names)[np.asarray(splits["train"].labels)]  # names, so that a message can say them
        splits["train"] = splits["train"].take(probe.balanced(labels, args.per_class, seed=args.seed))
    encoder = open_encoder(args.encoder)
    arrays: list[Any] = []
    for split in ("train", "val", "test"):
        features = _features(encoder, args.features, splits[split].images, "mean", split)
        arrays += [features, np.asarray(splits[split].labels)]
    found = probe.probe(*arrays, seed=args.seed)
    print(f"{args.encoder}, {args.features} features: {len(names)} classes, {len(splits['test'])} test images")
    _line("accuracy", found.accuracy, found.interval)
    print(f"  C = {found.C:g}, chosen on {len(splits['val'])} images that are not the test's")
    _flags(found.flags)
    record = {"accuracy": found.accuracy, "low": found.interval.low, "high": found.interval.high, "C": found.C}
    _write(args.out, record | {"grid": found.grid, "flags": found.flags, "encoder": args.encoder})


def segment(args: argparse.Namespace, overrides: Overrides) -> None:
    from pivot_jax.data.processing.images import preset_of
    from pivot_jax.probe import folders
    from pivot_jax.probe import segment as probe
    from pivot_jax.train.open import open_encoder

    _check(args.out)
    classes = given.class_names(args.classes)
    splits = folders.segmentation(args.data, args.seed)
    encoder = open_encoder(args.encoder)
    if not preset_of(encoder.geometry.preset).squash:
        raise UserError(
            f"the preset '{encoder.geometry.preset}' crops its pictures; only presets that squash fit the masks"
        )
    arrays: list[Any] = []
    for split in ("train", "val", "test"):
        files = splits[split]
        arrays += [_features(encoder, args.features, files.images, "none", split)]
        arrays += [folders.masks(files.labels, encoder.geometry.size)]  # type: ignore[arg-type]
    found = probe.probe(*arrays, classes=classes, head=args.head, seeds=tuple(range(args.seeds)), ignore=args.ignore)
    print(f"{args.encoder}, {args.features} features: {len(splits['test'])} test images, {args.seeds} seeds")
    _line("mean IoU", found.miou, found.interval)
    _line("macro recall", found.recall, found.recall_interval)
    for name, value in found.per_class.items():
        print(f"  {name:<14} IoU {100 * value:6.2f} %")
    _flags(found.flags)
    record = {"miou": found.miou, "low": found.interval.low, "high": found.interval.high, "recall": found.recall}
    _write(args.out, record | {"per_class": found.per_class, "seeds": found.seeds, "encoder": args.encoder})


def gradmap(args: argparse.Namespace, overrides: Overrides) -> None:
    """Map of −log p(answer), or, with ``--rejected``, of −(log p(chosen) − log p(rejected)).

    The second is DPO's gradient up to a positive factor (closed form of the gradient), whatever the reference model.
    """
    import numpy as np
    from PIL import Image

    from pivot_jax.probe import gradmap as probe
    from pivot_jax.train.open import open_run

    out = places.file(args.out, "--out", given.PICTURES)
    given.picture("--image", args.image)
    given.question(args.prompt)
    _check_answers(args.answer, args.rejected)
    run = open_run(args.workdir, args.step)
    if not run.processor.geometry.fixed:
        family = run.mllm.config.vision.family
        raise UserError(f"{args.workdir} has a {family} encoder; gradmap needs one of square images")
    loss, features, image = _answer_loss(run, args)
    grid = probe.gradient_map(loss, features, norm=args.norm)
    out.parent.mkdir(parents=True, exist_ok=True)
    picture = probe.overlay(np.asarray(Image.fromarray(image).resize((384, 384))), grid)
    Image.fromarray(picture).save(out)
    np.save(out.with_suffix(".npy"), grid)
    print(f"{out}: {grid.shape[0]} x {grid.shape[1]} patches; the numbers are in {out.with_suffix('.npy')}")


def _check_answers(answer: str, rejected: str | None) -> None:
    for option, text in (("--answer", answer), ("--rejected", rejected)):
        if text is not None and not text.strip():
            raise UserError(f"{option}: empty; the map is of the loss of its words")
    if answer == rejected:
        raise UserError("--rejected: the same as --answer; their preference loss has no gradient, so there is no map")


def _answer_loss(run: Any, args: argparse.Namespace) -> tuple[Any, Any, np.ndarray]:
    """(loss of the image's features [1, p, d], those features, the image as the encoder takes it)."""
    import jax
    import jax.numpy as jnp

    from pivot_jax.data.example import Example, Message
    from pivot_jax.data.processing.batch import CHOSEN
    from pivot_jax.models.logprobs import score

    prompt = (Message("user", f"<image>\n{args.prompt}"),)
    example = Example("gradmap", prompt, (args.image,), args.answer, args.rejected)
    batch = run.processor.for_kind("preference" if args.rejected else "sft").batch_of([example])
    sign = jnp.where(jnp.asarray(batch.target_branches) > CHOSEN, 1.0, -1.0) * batch.weights
    features = run.mllm.apply({"params": run.params}, batch.images, method="encode_images")
    loss = jax.jit(lambda x: jnp.sum(sign * score(run.mllm, run.params, batch, x).logps))
    return loss, features, batch.images[0, 0]


def align(args: argparse.Namespace, overrides: Overrides) -> None:
    """Mutual-kNN alignment of every encoder block with every layer of a language model's text features."""
    import numpy as np

    from pivot_jax.data import sources
    from pivot_jax.probe import align as probe
    from pivot_jax.probe import features, folders
    from pivot_jax.train.open import open_encoder

    _check(args.out)
    given.file("--text-features", args.text_features)
    source = sources.read({"format": "llava", "path": str(given.file("--data", args.data))})
    try:
        examples = [source[index] for index in range(len(source))]
    except RowError as error:
        raise UserError(
            f"--data {args.data}: {error}; LLaVA rows with 'image' and 'conversations' are needed"
        ) from None
    if bare := [example.id for example in examples if not example.images]:
        raise UserError(
            f"{args.data}: row '{bare[0]}' has no picture; every row needs one to be compared with its text"
        )
    paths = tuple(Path(example.images[0]) for example in examples)
    try:
        text = np.load(args.text_features)
    except (OSError, ValueError) as error:
        raise UserError(
            f"{args.text_features}: no .npy file of numbers; write one with numpy.save, float32 [items, layers, width]"
        ) from error
    if text.ndim != 3 or len(text) != len(paths):
        raise UserError(
            f"{args.text_features}: shape {text.shape}; wanted [{len(paths)}, layers, width], as {args.data}"
        )
    if not args.k < len(paths):
        raise UserError(
            f"--k {args.k}: {args.data} has {len(paths)} items; an item has at most {len(paths) - 1} others"
        )
    encoder = open_encoder(args.encoder)
    pictures = folders.Pictures(paths, encoder.geometry)
    layers = features.extract(features.blocks_encoder(encoder.module), encoder.params, pictures, pool="none")
    found = probe.align(layers, text, k=args.k)
    print(f"{args.encoder} and {args.text_features}: {len(paths)} items, k = {args.k}")
    block, layer = found.layers
    print(f"  alignment {found.score:.4f} (block {block}, text layer {layer}; chance {found.chance:.4f})")
    record = {"score": found.score, "layers": found.layers, "chance": found.chance, "table": found.table.tolist()}
    _write(args.out, record)


def _features(encoder: Any, kind: str, paths: tuple[Path, ...], pool: str, label: str) -> np.ndarray:
    from pivot_jax.probe import features, folders

    if kind == "projector" and "projector" not in encoder.params:
        raise UserError(f"--features projector: {encoder.name} has only the encoder; use --features vision")
    make = {"vision": features.vit_encoder, "projector": features.projector_encoder}[kind]
    pictures = folders.Pictures(paths, encoder.geometry)
    return features.extract(make(encoder.module), encoder.params, pictures, pool=pool, label=label)


def _line(name: str, value: float, interval: Any) -> None:
    print(f"  {name:<14} {100 * value:6.2f} %   95 % [{100 * interval.low:.2f}, {100 * interval.high:.2f}]")


def _flags(flags: tuple[str, ...]) -> None:
    for flag in flags:
        print(f"  note: {flag}")


def _check(out: str | None) -> None:
    if out:
        places.file(out, "--out")


def _write(out: str | None, record: dict[str, Any]) -> None:
    if out:
        Path(out).parent.mkdir(parents=True, exist_ok=True)
        Path(out).write_text(json.dumps(record, indent=1))
