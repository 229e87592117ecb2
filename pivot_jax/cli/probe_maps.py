"""``probe gradmap``: where an answer's gradients fall in an image."""

from __future__ import annotations

import argparse
from typing import Any

from pivot_jax import files
from pivot_jax.cli import inputs, outputs, tables
from pivot_jax.errors import UserError

COMMAND = "pivot-jax probe gradmap"
Overrides = dict[str, str]


def gradmap(args: argparse.Namespace, overrides: Overrides) -> None:
    """Map of −log p(answer), or, with ``--rejected``, of −(log p(chosen) − log p(rejected))."""
    import numpy as np

    from pivot_jax.probe import gradient_maps as probe
    from pivot_jax.train.open import open_run

    out = outputs.file(args.out, "--out", inputs.IMAGE_SUFFIXES, COMMAND)
    numbers, record = out.with_suffix(".npy"), out.with_suffix(".json")
    for beside, ours in ((numbers, out.exists()), (record, record.exists() and outputs.wrote(COMMAND, record))):
        if beside.exists() and not ours:
            raise outputs.not_ours(f"--out {args.out}: its {beside.name}", COMMAND)
    inputs.image("--image", args.image)
    if args.mask:
        inputs.image("--mask", args.mask)
    inputs.question(args.prompt)
    _check_answers(args)
    settings = probe.MapSettings(args.method, args.layer, args.norm, args.encoding)
    run = open_run(args.workdir, args.step)
    seen = _object(args, run)
    image, found = probe.question_map(run, args.image, args.prompt, args.answer, args.rejected, settings=settings)
    grids = found if found.ndim == 3 else found[None]
    outputs.image(out, COMMAND, np.concatenate([_shown(image, grid, args.method) for grid in grids], axis=1))
    with files.whole(numbers) as partial:
        np.save(partial, found)
    rows, columns = grids.shape[1:]
    print(f"{out}: {rows} x {columns} patches; the numbers are in {numbers}")
    scores = _scores(args, grids, seen) | (_gradients(args, run) if args.gradients else {})
    outputs.record(record, COMMAND, scores | {"method": args.method, "encoding": args.encoding})


def _shown(image: Any, grid: Any, method: str) -> Any:
    """The overlay, uint8 RGB, with a longer side of 384 pixels. Only gradients have artefacts at the border."""
    import numpy as np
    from PIL import Image

    from pivot_jax.probe.gradient_maps import overlay

    height, width = image.shape[:2]
    scale = 384 / max(height, width)
    size = (round(width * scale), round(height * scale))
    return overlay(np.asarray(Image.fromarray(image).resize(size)), grid, border=method == "gradient")


def _object(args: argparse.Namespace, run: Any) -> Any:
    """Where the encoder sees the object of ``--mask`` and ``--box``, or None."""
    from pivot_jax.probe.localisation import object_mask

    if not args.mask and not args.box:
        return None
    try:
        return object_mask(run.geometry, args.image, mask=args.mask, boxes=args.box)
    except UserError as error:
        raise UserError(f"--{error}" if str(error).startswith(("mask", "box")) else f"--mask, --box: {error}") from None


def _scores(args: argparse.Namespace, grids: Any, seen: Any) -> dict[str, Any]:
    """Prints and returns the scores of the maps, one or one per layer."""
    from pivot_jax.probe.localisation import entropy, localise

    if seen is None:
        rows = [{"entropy": entropy(grid)} for grid in grids]
    else:
        found = [localise(grid, seen) for grid in grids]
        rows = [
            {"hit": float(one.hit), "energy": one.energy, "iou": one.iou, "area": one.area, "entropy": one.entropy}
            for one in found
        ]
    table = tables.table("layer", *rows[0])
    first = "features" if args.layer is None and args.method != "rollout" else "last" if args.layer is None else ""
    for index, row in enumerate(rows):
        name = first or str(index if args.layer == "all" else args.layer)
        table.add_row(name, *(f"{value:.3f}" for value in row.values()))
    tables.console().print(table)
    return {"layer": args.layer, "scores": rows}


def _gradients(args: argparse.Namespace, run: Any) -> dict[str, Any]:
    """Prints and returns norms and cosines of this pair's gradients in the encoder's parameters."""
    from pivot_jax.data.example import Example, Message
    from pivot_jax.probe.encoder_gradients import encoder_gradients

    question = (Message("user", f"<image>\n{args.prompt}"),)
    found = encoder_gradients(run, [Example("gradmap", question, (args.image,), args.answer, args.rejected)])
    table = tables.table("gradient in", "SFT", "DPO", "cosine")
    for name, *values in zip(found.layers, found.sft[0], found.dpo[0], found.cosine[0], strict=True):
        table.add_row(name, *(f"{value:.4g}" for value in values))
    tables.console().print(table)
    print("DPO: of log p(chosen) - log p(rejected); the loss itself has beta / 2 times that where DPO starts")
    named = {"sft": found.sft, "dpo": found.dpo, "cosine": found.cosine}
    return {"gradients": {name: dict(zip(found.layers, v[0].tolist(), strict=True)) for name, v in named.items()}}


def _check_answers(args: argparse.Namespace) -> None:
    for option, text in (("--answer", args.answer), ("--rejected", args.rejected)):
        if text is not None and not text.strip():
            raise UserError(f"{option}: empty; the map shows the loss of the answer's words")
    if args.answer == args.rejected:
        raise UserError("--rejected: the same as --answer; their preference loss has no gradient, so there is no map")
    if args.rejected is None and (args.gradients or args.encoding == "separate"):
        option = "--gradients" if args.gradients else "--encoding separate"
        raise UserError(f"{option}: compares two answers; add --rejected")
