"""Our parameter tree → a folder that transformers loads: the encoder, the decoder, or the whole MLLM as LLaVA."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax

from pivot_jax import files
from pivot_jax.errors import UserError
from pivot_jax.hub import chat, folder, processors, tensors
from pivot_jax.hub.families import HubModel, llava, qwen_vl, text_of, vision_of
from pivot_jax.hub.load import Show
from pivot_jax.models.decoder import DecoderConfig
from pivot_jax.models.mllm import EncoderConfig, MLLMConfig
from pivot_jax.models.qwen_vision import QwenVisionConfig
from pivot_jax.models.vit import ViTConfig

SHARD_BYTES = 5 << 30
AROUND = ("<|vision_start|>", "<|vision_end|>")
VIDEO = "<|video_pad|>"  # Qwen-VL's configs name its id
_SYSTEM = "You are a helpful assistant."


def export_encoder(
    params: Mapping[str, Any],
    cfg: EncoderConfig | MLLMConfig,
    out: str | Path,
    *,
    drop_last: bool = False,
    final_trained: bool = False,
    dtype: str = "float32",
    overwrite: bool = False,
    note: str = "",
    show: Show | None = None,
) -> Path:
    """Writes ``params["vision"]`` as its family's class (a SiglipVisionModel) with its image processor.

    An MLLM neither uses nor trains ``vision/final``: of SigLIP and CLIP the last block, the closing norm and the
    pooling head, of ViT the pooler. If they are there, the whole encoder is written. ``drop_last`` writes it without
    them: of SigLIP and CLIP one layer less, no head, and a closing norm of ones and zeros, which the class must have;
    the trained features are then ``hidden_states[-1]`` instead of ``hidden_states[-2]``. ``final_trained`` is for the
    card of a whole encoder that was trained to its end, as stage 0 does. ``show`` is as in ``load_params``, for the
    bytes that are written.

    Raises:
      UserError: ``vision/final`` is absent and ``drop_last`` is not set; see also :func:`export_mllm`.
    """
    vision = cfg.vision if isinstance(cfg, MLLMConfig) else cfg
    family = vision_of(vision)
    has_final = _has_final(params, vision)
    if not has_final and not drop_last:
        without = f"one of {vision.blocks} layers without it" if vision.traits.penultimate else "one without it"
        raise UserError(
            f"these parameters hold no vision/final ({_left_out(vision)}), so a whole {family.class_name} cannot be "
            f"written; drop_last (--drop-last) writes {without}"
        )
    final = has_final and not drop_last
    if drop_last:
        vision = _without_final(vision)
    model = HubModel(family.model_type, vision=vision, final=final)
    raw = family.write(vision, final, dtype)
    lines = [
        f"A vision encoder from PIVOT-JAX. It loads with `transformers.{family.class_name}`.",
        "",
        *_about(vision, final, final_trained),
        *([family.note] if family.note else []),
    ]

    def beside(into: Path) -> None:
        folder.write_json(into / "config.json", raw)
        folder.write_image_processor(into, processors.write(vision))
        folder.write_card(into, "Vision encoder", "image-feature-extraction", [*lines, "", note])

    return _export(Path(out), overwrite, tensors.Tensors(params, model, dtype), beside, show)


def _without_final(vision: EncoderConfig) -> EncoderConfig:
    try:
        return vision.without_final()
    except ValueError as error:
        raise UserError(f"{error}; leave out drop_last (--drop-last)") from error


def _left_out(vision: EncoderConfig) -> str:
    return "last block, closing norm, pooling head" if vision.traits.penultimate else "pooler"


def _about(vision: EncoderConfig, final: bool, final_trained: bool) -> list[str]:
    """What a user of the exported folder should know."""
    if final and final_trained:
        lines = ["All of it was trained, the last block, the closing norm and the pooling head too."]
    elif not vision.traits.penultimate:
        state = f"`last_hidden_state[:, {vision.prefix}:]`"
        lines = [f"The features that training shaped are the patch tokens {state}, behind the closing norm."]
    else:
        state = f"`hidden_states[{-2 if final else -1}]{f'[:, {vision.prefix}:]' if vision.prefix else ''}`"
        lines = [
            f"The features that training shaped are the patch tokens {state} (ask for `output_hidden_states=True`).",
            "The last block, the closing norm and the pooling head behind them are those of the encoder that training "
            "started from; they were not trained with it."
            if final
            else "The last block and the pooling head were left out, because training does not use them; "
            "`post_layernorm` holds ones and zeros only because the class needs one.",
        ]
    if vision.pos_side != vision.grid and not vision.traits.patch_input:
        lines.append(
            f"It was trained on {vision.image_size}-pixel images, with its position embeddings resized: ask for "
            "`interpolate_pos_encoding=True` (DINOv2 does so by itself)."
        )
    return lines


def export_decoder(
    params: Mapping[str, Any],
    cfg: DecoderConfig | MLLMConfig,
    out: str | Path,
    *,
    tokenizer: Any = None,
    dtype: str = "float32",
    system: str = _SYSTEM,
    dialect: str = "chatml",
    overwrite: bool = False,
    note: str = "",
    show: Show | None = None,
) -> Path:
    """Writes ``params["decoder"]`` as its family's class, with the tokenizer and our chat template if one is given."""
    decoder = cfg.decoder if isinstance(cfg, MLLMConfig) else cfg
    family = text_of(decoder)
    model = HubModel(family.model_type, decoder=decoder)
    raw = family.write(decoder, dtype) | folder.special_tokens(tokenizer)

    def write_chat(into: Path) -> None:
        folder.write_chat_template(into, chat.jinja(system, dialect=dialect))

    lines = ["A decoder from PIVOT-JAX. It loads with `transformers.AutoModelForCausalLM`.", "", note]
    beside = _beside(raw, None, tokenizer, write_chat, ("Language model", "text-generation", lines))
    return _export(Path(out), overwrite, tensors.Tensors(params, model, dtype), beside, show)


def export_mllm(
    params: Mapping[str, Any],
    cfg: MLLMConfig,
    out: str | Path,
    *,
    tokenizer: Any = None,
    image_token: str | int = "<|image_pad|>",
    system: str = _SYSTEM,
    dialect: str = "chatml",
    dtype: str = "float32",
    overwrite: bool = False,
    note: str = "",
    show: Show | None = None,
) -> Path:
    """Writes everything as a LlavaForConditionalGeneration, with a LlavaProcessor if a tokenizer is given.

    A model of tiled pictures (``projector.newline``) becomes a LlavaOnevisionForConditionalGeneration.

    Where ``vision/final`` is absent, the tower has one layer less and ``vision_feature_layer`` is -1: the same
    function, and no weights made up.

    Args:
      image_token: the placeholder; an id where there is no tokenizer.
      system: the chat template's default system text; "" leaves the system turn out.
      dialect: how the chat template writes turns: a key of ``data.processing.dialects.DIALECTS``.
      dtype: "float32", "bfloat16" or "float16".

    Raises:
      UserError: a projector that LLaVA has no place for, parameters of another model, no image token, a folder
        that is not empty, a disk that is full. The folder is written whole or not at all.
    """
    encoder = cfg.vision
    if not isinstance(encoder, ViTConfig) or cfg.second:
        what = "two encoders" if cfg.second else f"a {encoder.family} tower"
        raise UserError(f"Hugging Face's LLaVA has no class with {what}; export its parts instead")
    count = cfg.projector.layers + cfg.projector.reused
    if count != 2:
        raise UserError(f"Hugging Face's LLaVA has 2 projector layers, this model {count}; export its parts instead")
    token_id = _image_token_id(tokenizer, image_token, cfg.decoder.vocab_size)
    _check_llava(encoder)
    final, tiled = _has_final(params, encoder), cfg.projector.newline
    model = HubModel("llava_onevision" if tiled else "llava", encoder, cfg.decoder, cfg.projector, final, token_id)
    tower, language = vision_of(encoder), text_of(cfg.decoder)
    text = language.write(cfg.decoder, dtype) | folder.special_tokens(tokenizer)
    raw = (llava.write_onevision if tiled else llava.write)(tower.write(encoder, final, dtype), text, token_id, encoder)
    processor = llava.onevision_processor(encoder, processors.write(encoder)) if tiled else processors.write(encoder)

    def write_chat(into: Path) -> None:
        token = tokenizer.convert_ids_to_tokens(token_id)
        folder.write_llava_processor(into, encoder, token, chat.jinja(system, token, dialect), tiled)

    lines = [
        f"A LLaVA-style multimodal LLM from PIVOT-JAX. It loads with `transformers.{raw['architectures'][0]}` "
        "and `transformers.AutoProcessor`.",
        "",
        note,
    ]
    card = "LLaVA-style multimodal LLM", "image-text-to-text", lines
    beside = _beside(raw, processor, tokenizer, write_chat, card)
    return _export(Path(out), overwrite, tensors.Tensors(params, model, dtype), beside, show)


def export_qwen_vl(
    params: Mapping[str, Any],
    cfg: MLLMConfig,
    out: str | Path,
    *,
    tokenizer: Any = None,
    image_token: str | int = "<|image_pad|>",
    image_around: tuple[str, ...] = AROUND,
    system: str = _SYSTEM,
    dialect: str = "chatml",
    dtype: str = "float32",
    overwrite: bool = False,
    note: str = "",
    show: Show | None = None,
) -> Path:
    """Writes everything as a Qwen2VLForConditionalGeneration or Qwen2_5_VLForConditionalGeneration, by the tower.

    Args:
      image_around: tokens before and behind each picture's.
      others: as for :func:`export_mllm`.

    Raises:
      UserError: a decoder without M-RoPE, or with heads that the class cannot have; see also :func:`export_mllm`.
    """
    vision, vocabulary = cfg.vision, cfg.decoder.vocab_size
    assert isinstance(vision, QwenVisionConfig)
    token_id = _image_token_id(tokenizer, image_token, vocabulary)
    ids: Any = (
        None if tokenizer is None else tuple(_image_token_id(tokenizer, text, vocabulary) for text in image_around)
    )
    video = None if tokenizer is None else tokenizer.get_vocab().get(VIDEO)
    model = HubModel(
        vision.family, vision, cfg.decoder, cfg.projector,
        image_token_id=token_id, image_around=ids, video_token_id=video,
    )  # fmt: skip
    text = qwen_vl.write_text(vision.family, cfg.decoder, dtype) | folder.special_tokens(tokenizer)
    raw, name = qwen_vl.write(model, text), qwen_vl.CLASSES[vision.family]

    def write_chat(into: Path) -> None:
        image = tokenizer.convert_ids_to_tokens(token_id).join(image_around or ("", ""))
        folder.write_chat_template(into, chat.jinja(system, image, dialect, newline=not image_around))

    lines = [
        f"A {name} from PIVOT-JAX. It loads with `transformers.{name}` and `transformers.AutoProcessor`.",
        "",
        note,
    ]
    card = "Multimodal LLM", "image-text-to-text", lines
    beside = _beside(raw, qwen_vl.image_processor(vision), tokenizer, write_chat, card)
    return _export(Path(out), overwrite, tensors.Tensors(params, model, dtype), beside, show)


def _beside(
    raw: Mapping[str, Any],
    processor: Mapping[str, Any] | None,
    tokenizer: Any,
    write_chat: Callable[[Path], None],
    card: tuple[str, str, list[str]],
) -> Callable[[Path], None]:
    """Writes what stands beside the weights of a model that generates: config, processors, tokenizer, card.

    Args:
      processor: preprocessor_config.json. write_chat: writes the chat template, where there is a tokenizer.
      card: title, pipeline tag, lines.
    """

    def beside(into: Path) -> None:
        folder.write_json(into / "config.json", raw)
        folder.write_generation(into, tokenizer)
        if processor is not None:
            folder.write_image_processor(into, processor)
        if tokenizer is not None:
            tokenizer.save_pretrained(into)
            write_chat(into)
        folder.write_card(into, *card)

    return beside


def _export(
    out: Path, overwrite: bool, source: tensors.Tensors, beside: Callable[[Path], None], show: Show | None
) -> Path:
    """Weights, then what stands beside them, into a folder that appears only when all is written."""
    gathered = iter(source)
    if jax.process_index() != 0:
        tensors.drain(gathered)
        return out
    try:
        with files.whole_folder(out, overwrite=overwrite) as into:
            with show(source.bytes) if show else contextlib.nullcontext() as advance:
                tensors.write_shards(into, source, gathered, SHARD_BYTES, advance)
            beside(into)
    finally:
        if jax.process_count() > 1:
            tensors.drain(gathered)  # a failure here must not leave the other processes waiting
    return out


def _check_llava(vision: EncoderConfig) -> None:
    """Refuses what LlavaForConditionalGeneration would compute otherwise than we do."""
    if not vision.traits.penultimate or vision.traits.patch_input:
        raise UserError(
            f"Hugging Face's LLaVA takes no features of a '{vision.family}' encoder as we do; export its parts instead"
        )
    if vision.pos_side != vision.grid:
        raise UserError(
            f"this encoder's position table of {vision.pos_side}x{vision.pos_side} places is resized to "
            f"{vision.grid}x{vision.grid}, which Hugging Face's LLaVA does not do; export its parts instead"
        )


def _has_final(params: Mapping[str, Any], cfg: EncoderConfig) -> bool:
    vision = params.get("vision")
    if vision is None:
        raise UserError(f"the parameters hold no 'vision' (there is: {', '.join(sorted(params))})")
    return "final" in vision or not cfg.has_final


def _image_token_id(tokenizer: Any, image_token: str | int, vocab_size: int) -> int:
    if isinstance(image_token, int):
        token_id: Any = image_token
    elif tokenizer is None:
        raise UserError("an export without a tokenizer needs the image token as an id")
    else:
        token_id = tokenizer.get_vocab().get(image_token)
    if token_id is None or not 0 <= token_id < vocab_size:
        raise UserError(f"image token {image_token!r} (id {token_id}) is not in the vocabulary of {vocab_size}")
    return token_id
