"""A run, or a part of it, as a Hugging Face folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, get_args

from pivot_jax import files, hub
from pivot_jax.errors import UserError
from pivot_jax.hub import HubModel, adapter
from pivot_jax.models import zoo
from pivot_jax.models.mllm import MLLMConfig
from pivot_jax.objectives.table import batch_kind
from pivot_jax.progress import progress
from pivot_jax.train import checkpoint
from pivot_jax.train.source import run_config, run_tokenizer

Part = Literal["model", "encoder", "decoder", "adapter"]


def export(
    workdir: str | Path,
    out: str | Path,
    *,
    part: Part = "model",
    step: int | None = None,
    dtype: str = "float32",
    drop_last: bool = False,
    overwrite: bool = False,
) -> None:
    """Writes ``part`` of a run's checkpoint to ``out`` as a folder for transformers, or for peft (``adapter``).

    Args:
      step: of the checkpoint; None is the newest.
      dtype: of the written weights: float32, bfloat16 or float16. An adapter is written in its own dtype.
      drop_last: leave out the encoder's last block, which no stage of an MLLM trains. For ``encoder`` only.
      overwrite: replace an earlier export. A folder that holds anything else is never replaced.

    Raises:
      UserError: no such run or checkpoint, a part that the run does not have, or ``out`` cannot be written.
    """
    if part not in get_args(Part):
        raise UserError(f"part '{part}' is unknown; choose one of {', '.join(get_args(Part))}")
    workdir, out = Path(workdir), Path(out)
    config = run_config(workdir)
    stage0 = batch_kind(config) == "contrastive"
    if stage0 and part != "encoder":
        raise UserError(f"{workdir} is a run of stage 0: it has no language model; add --what encoder (part='encoder')")
    files.check_folder(out, overwrite=overwrite)
    model = zoo.build(config.model, config.data.image)
    if part == "adapter":
        _export_adapter(workdir, out, config, model, step=step, overwrite=overwrite)
        return
    show = lambda size: progress(f"writing {out}", size, size=True)  # noqa: E731
    options = hub.ExportOptions(dtype, overwrite, f"Run: {config.name}.", show)
    params = checkpoint.lazy_run(workdir, step)
    if part == "encoder":
        hub.export_encoder(params, model.vision, out, options, drop_last=drop_last, final_trained=stage0)
    else:
        write(config, params, run_tokenizer(workdir), out, options, part)


def write(
    config: Any,
    params: Any,
    tokenizer: Any,
    out: Path,
    options: hub.ExportOptions,
    part: Part = "model",
    *,
    training: bool = False,
) -> None:
    """Writes a whole model, or its ``decoder``, as ``config`` describes it.

    Args:
      params: nested dict of arrays, or of leaves that read one when asked (``checkpoint.lazy_run``).
      training: the chat template is for a library that trains (see ``hub.chat.jinja``).

    Raises:
      UserError: a model that no class of transformers computes, or ``out`` cannot be written.
    """
    model, words = zoo.build(config.model, config.data.image), config.tokenizer
    text = hub.ExportText(
        tokenizer, words.image_token, tuple(words.image_around), system=words.system, dialect=words.chat,
        training=training,
    )  # fmt: skip
    if part == "decoder":
        hub.export_decoder(params, model.decoder, out, options, text)
    else:
        export_whole = hub.export_qwen_vl if model.vision.traits.merges else hub.export_mllm
        export_whole(params, model, out, options, text)


def _export_adapter(
    workdir: Path, out: Path, config: Any, model: MLLMConfig, *, step: int | None, overwrite: bool
) -> None:
    if not config.lora.rank:
        raise UserError(f"{workdir} was trained without LoRA (lora.rank is 0); use --what model (part='model')")
    params = checkpoint.load_run(workdir, step, merge=False)
    start = config.init.get("", "")
    base = start.removeprefix("hf:") if start.startswith("hf:") else ""
    kind = model.vision.family if model.vision.traits.merges else "llava"
    hub_model = HubModel(kind, model.vision, model.decoder, model.projector)
    adapter.write(params, hub_model, out, base=base, overwrite=overwrite)
