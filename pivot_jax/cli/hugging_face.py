"""``import-hf`` and ``export-hf``: Hugging Face folders in and out."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import Any

from pivot_jax import files
from pivot_jax.cli import places
from pivot_jax.errors import UserError

Overrides = dict[str, str]
MOST_PATCHES = 4096  # of a picture, in an imported run: 1,024 tokens
PARTS = ("model", "encoder", "decoder", "adapter")


def import_hf(args: argparse.Namespace, overrides: Overrides) -> None:
    """A LLaVA folder becomes a run (config.json and a checkpoint of step 0); an encoder or decoder a pack."""
    from pivot_jax import hub
    from pivot_jax.models import lora
    from pivot_jax.optim import partition
    from pivot_jax.progress import progress

    folder = hub.folder_of(args.folder)
    model = hub.read_config(folder)
    out = places.folder(args.workdir, "--workdir")
    if out.exists() and any(out.iterdir()):
        raise UserError(f"{out} is not empty; name a new folder")
    if model.vision is not None and model.vision.traits.second_only:
        raise UserError(
            f"{folder} is a ConvNeXt, which a run has as its second encoder: set model.second.kind=convnext and its "
            f"dimensions, and init.second=hf:{folder}:vision"
        )
    whole = model.decoder is not None and model.vision is not None
    # a tokenizer that does not fit is refused before anything is read
    config = _run_config(folder, model) if whole else None
    adapters = hub.adapter.read(args.adapter, model) if args.adapter else {}
    params = hub.load_params(folder, show=lambda size: progress(f"reading {folder}", size, size=True))
    if adapters:
        params = lora.merged(partition.merge(params, adapters))
    if config is not None:
        # the run's config, trained further, starts from these weights and not from random ones
        config.init = {"": f"run:{out}" if adapters else f"hf:{folder}"}
        _write_run(config, params, out)
        print(f"{out}: a run of {hub.summary(model)}; use it with --workdir, or as run:{out} in init")
        return
    from pivot_jax.train import pack

    section = _model_section(model)
    about = {"source": str(args.folder), "model_type": model.model_type, "model": section}
    if model.vision is not None:
        about["image"] = _image_section(model.vision)
    pack.save(out, params, about)
    print(f"{out}: a pack of {hub.summary(model)}; use it as pack:{out} in init")


def _model_section(model: Any) -> dict[str, Any]:
    """``config.model`` of what the folder holds, over the defaults."""
    from pivot_jax import config as configs

    section = configs.base().model.to_dict()
    for part in ("vision", "decoder"):
        found = getattr(model, part)
        if found is not None:
            values = dataclasses.asdict(found)
            section[part] |= {key: value for key, value in values.items() if key in section[part]}
    if model.projector is not None:
        values = {"layers": model.projector.layers, "reuse": model.projector.reused}
        section["projector"] |= {**values, "newline": model.projector.newline}
    return section


def _run_config(folder: Path, model: Any) -> Any:
    """Config of the run that a whole model's folder becomes.

    Raises:
      UserError: a tokenizer that is not there, or that does not fit the model.
    """
    from pivot_jax import config as configs
    from pivot_jax import hub
    from pivot_jax.data.processing.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(folder, "--folder")
    _check_tokenizer(folder, tokenizer, model)
    config = configs.base()
    found = hub.dialect_and_system(tokenizer, folder)
    chat, system = found or (config.tokenizer.chat, config.tokenizer.system)
    if found is None:
        print(
            f"{folder}: its chat template is missing or none that we render and is not taken over; the run asks in "
            f"ChatML with the system text {system!r} (tokenizer.system in its config.json)",
            file=sys.stderr,
        )
    around = tuple(tokenizer.convert_ids_to_tokens(list(model.image_around or ())))
    if model.image_token_id is not None:
        image_token = tokenizer.convert_ids_to_tokens(model.image_token_id)
    else:  # LLaVA's own code gives pictures no token of the vocabulary
        image_token = config.tokenizer.image_token
    content = {
        "name": folder.name,
        "model": _model_section(model),
        "tokenizer": {
            **{"path": str(folder), "image_token": image_token, "chat": chat, "system": system},
            "image_around": around,
        },
        "data": {"image": {**_image_section(model.vision), "max_tiles": model.max_tiles}},
    }
    configs.merge(config, content, where=str(folder))
    configs.validate(config)
    return config


def _check_tokenizer(folder: Path, tokenizer: Any, model: Any) -> None:
    rows = model.decoder.vocab_size
    if len(tokenizer) > rows:
        raise UserError(
            f"{folder}: the tokenizer has {len(tokenizer)} tokens, the embedding {rows} rows (vocab_size in "
            "config.json); fetch the tokenizer's files of this model"
        )
    image = model.image_token_id
    if image is not None and tokenizer.convert_ids_to_tokens(image) is None:
        raise UserError(
            f"{folder}: config.json puts pictures at token {image}, which the tokenizer of {len(tokenizer)} tokens "
            "does not have; fetch the tokenizer's files of this model"
        )


def _write_run(config: Any, params: dict[str, Any], out: Path) -> None:
    from pivot_jax import config as configs
    from pivot_jax.train.checkpoint import Checkpoints

    out.mkdir(parents=True, exist_ok=True)
    checkpoints = Checkpoints(out)
    checkpoints.save(0, {"trained": params, "frozen": {}}, {})
    checkpoints.wait()
    checkpoints.close()
    (out / "config.json").write_text(configs.to_json(config))


def _image_section(vision: Any) -> dict[str, Any]:
    """``config.data.image`` for the folder's encoder."""
    from pivot_jax.data.processing.images import preset_of

    if not vision.traits.merges:
        found = {"preset": vision.preset, "size": vision.image_size}
        return {**found, "max_patches": vision.patches} if vision.traits.patch_input else found
    preset = preset_of(vision.family)
    if (vision.mean, vision.std) != (preset.mean, preset.std):
        raise UserError(
            f"the folder's image processor normalises with mean {vision.mean} and deviation {vision.std}; a run with a "
            f"{vision.family} encoder does with {preset.mean} and {preset.std}"
        )
    least, most = vision.min_pixels, vision.max_pixels
    room = min(MOST_PATCHES, most // vision.patch_size**2 // 4 * 4)
    if room * vision.patch_size**2 < most:
        print(
            f"pictures of more than {room} patches are made smaller (data.image.max_patches); "
            f"the checkpoint's processor lets them have {most // vision.patch_size**2}",
            file=sys.stderr,
        )
    return {"preset": vision.family, "max_patches": room, "min_pixels": least, "max_pixels": most}


def export_hf(args: argparse.Namespace, overrides: Overrides) -> None:
    from pivot_jax import hub
    from pivot_jax.data.processing.tokenizer import load_tokenizer
    from pivot_jax.models import zoo
    from pivot_jax.objectives.table import batch_kind
    from pivot_jax.progress import progress
    from pivot_jax.train import checkpoint
    from pivot_jax.train.source import run_config

    workdir = Path(args.workdir)
    config = run_config(workdir)
    if batch_kind(config) == "contrastive" and args.what != "encoder":
        raise UserError(f"{workdir} is a run of stage 0: an encoder without a language model; add --what encoder")
    out = places.folder(args.out, "--out")
    files.check_folder(out, overwrite=args.overwrite)
    model = zoo.build(config.model, config.data.image)
    if args.what == "adapter":
        _export_adapter(args, config, model)
        return
    params = checkpoint.lazy_run(workdir, args.step)
    show = lambda size: progress(f"writing {out}", size, size=True)  # noqa: E731
    options = hub.ExportOptions(args.dtype, args.overwrite, f"Run: {config.name}.", show)
    if args.what == "encoder":
        ends = {"drop_last": args.drop_last, "final_trained": batch_kind(config) == "contrastive"}
        hub.export_encoder(params, model.vision, args.out, options, **ends)
    else:
        section = config.tokenizer
        text = hub.ExportText(
            load_tokenizer(section.path), section.image_token, tuple(section.image_around), section.system, section.chat
        )
        if args.what == "decoder":
            hub.export_decoder(params, model.decoder, args.out, options, text)
        else:
            export = hub.export_qwen_vl if model.vision.traits.merges else hub.export_mllm
            export(params, model, args.out, options, text)
    print(f"{args.out}: {args.what} of {workdir}, for transformers")


def _export_adapter(args: argparse.Namespace, config: Any, model: Any) -> None:
    from pivot_jax.hub import HubModel, adapter
    from pivot_jax.train import checkpoint

    if not config.lora.rank:
        raise UserError(f"{args.workdir} was trained without LoRA (lora.rank is 0); export the model, --what model")
    params = checkpoint.load_run(Path(args.workdir), args.step, merge=False)
    start = config.init.get("", "")
    base = start.removeprefix("hf:") if start.startswith("hf:") else ""
    kind = model.vision.family if model.vision.traits.merges else "llava"
    hub_model = HubModel(kind, model.vision, model.decoder, model.projector)
    adapter.write(params, hub_model, args.out, base=base, overwrite=args.overwrite)
    print(f"{args.out}: adapter of {args.workdir}, for peft")
