"""A Hugging Face folder as a run (LLaVA, Qwen2-VL and similar models) or as a pack (an encoder or a language model)."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pivot_jax import config as configs
from pivot_jax import files, hub
from pivot_jax.data.processing.chat import build_template
from pivot_jax.data.processing.dialects import TEMPLATE
from pivot_jax.data.processing.template import Format
from pivot_jax.data.processing.tokenizer import load_tokenizer, save_tokenizer
from pivot_jax.errors import UserError
from pivot_jax.hub import HubModel
from pivot_jax.models import lora
from pivot_jax.optim import partition
from pivot_jax.progress import progress
from pivot_jax.train import pack
from pivot_jax.train.checkpoints import Checkpoints
from pivot_jax.train.source import TOKENIZER, image_section, model_section


class Imported(NamedTuple):
    """The result of an import."""

    kind: Literal["run", "pack"]
    summary: str  # of the model


def import_folder(
    folder: str | Path,
    out: str | Path,
    *,
    adapter: str | Path | None = None,
    chat_template: str | Path = "",
    allow_non_finite: bool = False,
) -> Imported:
    """Writes the model of ``folder`` to ``out``, which must be empty or missing.

    A model with an encoder and a decoder becomes a run: ``config.json`` and a checkpoint of step 0. An encoder or a
    decoder alone becomes a pack.

    Args:
      folder: with ``config.json`` and safetensors, or ORG/NAME on the hub.
      adapter: folder of a PEFT LoRA on this model, which is merged into it.
      chat_template: Jinja file, in place of the folder's chat template.
      allow_non_finite: weights may be NaN or infinite.

    Raises:
      UserError: ``out`` is not empty; the folder is damaged or of a kind that we do not read; its tokenizer is missing
        or does not fit the model; its chat template is missing, or answers in it cannot be scored.
    """
    source, out = hub.folder_of(str(folder)), Path(out)
    model = hub.read_config(source)
    if out.exists() and any(out.iterdir()):
        raise UserError(f"{out} is not empty; name a new folder")
    if model.vision is not None and model.vision.traits.second_only:
        raise UserError(
            f"{source} is a ConvNeXt, which a run has as its second encoder: set model.second.kind=convnext and its "
            f"dimensions, and init.second=hf:{source}:vision"
        )
    whole = model.decoder is not None and model.vision is not None
    # before the weights are read, so that a tokenizer that does not fit costs no time
    config = run_config(source, model, chat_template) if whole else None
    adapters = hub.adapter.read(adapter, model) if adapter else {}
    params = hub.load_params(
        source,
        allow_non_finite=allow_non_finite,
        show=lambda size: progress(f"reading {source}", size, size=True),
    )
    if adapters:
        params = lora.merged(partition.merge(params, adapters))
    if config is None:
        about = {"source": str(folder), "model_type": model.model_type, "model": _model_section(model)}
        if model.vision is not None:
            about["image"] = image_section(model.vision)
        pack.save(out, params, about)
        return Imported("pack", hub.summary(model))
    # further training with this config starts from these weights, not from random ones
    config.init = {"": f"run:{out}" if adapters else f"hf:{source}"}
    _write_run(config, params, out)
    return Imported("run", hub.summary(model))


def run_config(folder: Path, model: HubModel, chat_template: str | Path = "") -> Any:
    """Config of the run that the folder of a whole model becomes.

    Its rows are in a dialect of ours where that is what the chat template writes, else the template's own.

    Raises:
      UserError: a tokenizer that is missing or does not fit the model, no chat template, or one that cannot be used.
    """
    tokenizer = load_tokenizer(folder, "--folder", chat_template=chat_template)
    _check_tokenizer(folder, tokenizer, model)
    config = configs.base()
    around = tuple(tokenizer.convert_ids_to_tokens(list(model.image_around or ())))
    if model.image_token_id is not None:
        image_token = tokenizer.convert_ids_to_tokens(model.image_token_id)
    else:  # in LLaVA's own code images have no token of the vocabulary
        image_token = config.tokenizer.image_token
    dialect = None if chat_template else hub.dialect_and_system(tokenizer)
    chat, system = _turns(folder, tokenizer, str(image_token), dialect)
    content = {
        "name": folder.name,
        "model": _model_section(model),
        "tokenizer": {
            **{"path": str(folder), "image_token": image_token, "chat": chat, "system": system},
            **{"image_around": around, "chat_template": str(chat_template)},
        },
        "data": {"image": {**image_section(model.vision), "max_tiles": model.max_tiles}},
    }
    configs.merge(config, content, where=str(folder))
    configs.validate(config)
    return config


def _model_section(model: HubModel) -> dict[str, Any]:
    """``config.model`` of the folder's parts, over the defaults."""
    section = configs.base().model.to_dict()
    for part in ("vision", "decoder"):
        found = getattr(model, part)
        if found is not None:
            section[part] |= model_section(part, found)
    if model.projector is not None:
        values = {"layers": model.projector.layers, "reuse": model.projector.reused}
        section["projector"] |= {**values, "newline": model.projector.newline}
    return section


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
            f"{folder}: config.json puts images at token {image}, which the tokenizer of {len(tokenizer)} tokens "
            "does not have; fetch the tokenizer's files of this model"
        )


def _turns(folder: Path, tokenizer: Any, image_token: str, dialect: tuple[str, str] | None) -> tuple[str, str]:
    """``tokenizer.chat`` and ``tokenizer.system``: the dialect where the tokenizer has its tokens, else the template.

    Raises:
      UserError: rows cannot be written in the chat template; said before anyone trains.
    """
    image = image_token if image_token in tokenizer.get_vocab() else ""  # LLaVA's own tokenizers have none
    if dialect is not None:
        with contextlib.suppress(UserError):  # such as a newline of two tokens
            build_template(tokenizer, Format("chat", *dialect, image_token=image))
            return dialect
    try:
        build_template(tokenizer, Format("chat", TEMPLATE, "", image_token=image))
    except UserError as error:
        raise UserError(f"{folder}: {error}") from None
    return TEMPLATE, ""


def _write_run(config: Any, params: dict[str, Any], out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    checkpoints = Checkpoints(out)
    checkpoints.save(0, {"trained": params, "frozen": {}}, {})
    checkpoints.wait()
    checkpoints.close()
    words = config.tokenizer
    save_tokenizer(load_tokenizer(words.path, chat_template=words.chat_template), out / TOKENIZER)
    files.write_text(out / "config.json", configs.to_json(config))
