"""Our parameter tree → a folder that transformers loads: the encoder, the decoder, or the whole MLLM."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from pivot_jax import files
from pivot_jax.data.processing.dialects import TEMPLATE
from pivot_jax.data.processing.jinja import source_of
from pivot_jax.data.sources.base import IMAGE
from pivot_jax.errors import UserError
from pivot_jax.hub import chat, folder, processors, tensors
from pivot_jax.hub.families import HubModel, llava, qwen_vl, text_of, vision_of
from pivot_jax.hub.load import Show
from pivot_jax.models.decoder import DecoderConfig
from pivot_jax.models.mllm import MLLMConfig
from pivot_jax.models.vision import SquareVisionConfig

SHARD_BYTES = 5 << 30


@dataclass(frozen=True)
class ExportOptions:
    """How a folder is written.

    Attributes:
      dtype: "float32", "bfloat16" or "float16".
      overwrite: replace a folder that an earlier export wrote.
      note: a line for the model card.
      show: as in ``load_params``, for the bytes that are written.
    """

    dtype: str = "float32"
    overwrite: bool = False
    note: str = ""
    show: Show | None = None


@dataclass(frozen=True)
class ExportText:
    """The text side of a folder: tokenizer, special tokens and chat template.

    Attributes:
      tokenizer: None: the folder gets neither a tokenizer nor a chat template, and the tokens below are ids, such as
        those of a ``HubModel``.
      image_token: the placeholder of an image.
      image_around: tokens before and after each image's; of Qwen-VL's classes only.
      video_token: of Qwen-VL's classes only, whose configs name its id; None, or a token that the tokenizer lacks:
        Qwen's own id.
      system: the chat template's default system text; "" leaves the system turn out.
      dialect: how the chat template writes turns: a key of ``data.processing.dialects.DIALECTS``, or ``template``: the
        tokenizer's chat template is written as it is.
      training: the chat template is for a library that trains (see ``chat.jinja``).
    """

    tokenizer: Any = None
    image_token: str | int = "<|image_pad|>"
    image_around: tuple[str | int, ...] = ("<|vision_start|>", "<|vision_end|>")
    video_token: str | int | None = "<|video_pad|>"
    system: str = "You are a helpful assistant."
    dialect: str = "chatml"
    training: bool = False


def export_encoder(
    params: Mapping[str, Any],
    cfg: SquareVisionConfig | MLLMConfig,
    out: str | Path,
    options: ExportOptions = ExportOptions(),
    *,
    drop_last: bool = False,
    final_trained: bool = False,
) -> Path:
    """Writes ``params["vision"]`` as its family's class (a SiglipVisionModel) with its image processor.

    An MLLM neither uses nor trains ``vision/final``: of SigLIP and CLIP the last block, the closing norm and the
    pooling head, of ViT the pooler. If the parameters hold them, the whole encoder is written.

    Args:
      drop_last: leave ``vision/final`` out. SigLIP and CLIP then have one layer less, no head, and a closing norm of
        ones and zeros, which the class must have; the trained features are ``hidden_states[-1]`` instead of
        ``hidden_states[-2]``.
      final_trained: for the card: the whole encoder was trained to its end, as in stage 0.

    Raises:
      UserError: ``vision/final`` is absent and ``drop_last`` is not set, or an encoder that has no class of its own;
        see also :func:`export_mllm`.
    """
    vision = cfg.vision if isinstance(cfg, MLLMConfig) else cfg
    family = vision_of(vision)
    if family.whole_class:
        raise UserError(f"a {vision.family} encoder is a part of {family.whole_class}; export the whole model")
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
    raw = family.write(vision, final, options.dtype)
    lines = [
        f"A vision encoder from PIVOT-JAX. It loads with `transformers.{family.class_name}`.",
        "",
        *_about(vision, final, final_trained),
        *([family.note] if family.note else []),
    ]

    def beside(into: Path) -> None:
        folder.write_json(into / "config.json", raw)
        folder.write_image_processor(into, processors.write(vision))
        folder.write_card(into, "Vision encoder", "image-feature-extraction", [*lines, "", options.note])

    return _export(Path(out), tensors.Tensors(params, model, options.dtype), beside, options)


def _without_final(vision: SquareVisionConfig) -> SquareVisionConfig:
    try:
        return vision.without_final()
    except ValueError as error:
        raise UserError(f"{error}; leave out drop_last (--drop-last)") from error


def _left_out(vision: SquareVisionConfig) -> str:
    return "last block, closing norm, pooling head" if vision.traits.penultimate else "pooler"


def _about(vision: SquareVisionConfig, final: bool, final_trained: bool) -> list[str]:
    """Lines of the card on the trained features."""
    if final and final_trained:
        lines = ["All of it was trained, the last block, the closing norm and the pooling head too."]
    elif not vision.traits.penultimate:
        state = f"`last_hidden_state[:, {vision.prefix}:]`"
        lines = [f"The features that training shaped are the patch tokens {state}, after the closing norm."]
    else:
        state = f"`hidden_states[{-2 if final else -1}]{f'[:, {vision.prefix}:]' if vision.prefix else ''}`"
        lines = [
            f"The features that training shaped are the patch tokens {state} (ask for `output_hidden_states=True`).",
            "The last block, the closing norm and the pooling head after them are those of the encoder that training "
            "started from; they were not trained with it."
            if final
            else "The last block and the pooling head were left out, because training does not use them; "
            "`post_layernorm` holds ones and zeros only because the class needs one.",
        ]
    if vision.pos_side != vision.grid and not vision.traits.patch_input:
        lines.append(
            f"It was trained on {vision.image_size}-pixel images, with its position embeddings resized: ask for "
            "`interpolate_pos_encoding=True` (DINOv2 does so automatically)."
        )
    return lines


def export_decoder(
    params: Mapping[str, Any],
    cfg: DecoderConfig | MLLMConfig,
    out: str | Path,
    options: ExportOptions = ExportOptions(),
    text: ExportText = ExportText(),
) -> Path:
    """Writes ``params["decoder"]`` as its family's class, with the tokenizer of ``text`` and our chat template."""
    decoder = cfg.decoder if isinstance(cfg, MLLMConfig) else cfg
    family = text_of(decoder)
    model = HubModel(family.model_type, decoder=decoder)
    raw = folder.special_tokens(text.tokenizer) | family.write(decoder, options.dtype)

    def write_chat(into: Path) -> None:
        folder.write_chat_template(into, _chat_template(text))

    lines = ["A decoder from PIVOT-JAX. It loads with `transformers.AutoModelForCausalLM`.", "", options.note]
    beside = _beside(raw, None, text.tokenizer, write_chat, ("Language model", "text-generation", lines))
    return _export(Path(out), tensors.Tensors(params, model, options.dtype), beside, options)


def export_mllm(
    params: Mapping[str, Any],
    cfg: MLLMConfig,
    out: str | Path,
    options: ExportOptions = ExportOptions(),
    text: ExportText = ExportText(),
) -> Path:
    """Writes everything as a LlavaForConditionalGeneration, with a LlavaProcessor if ``text`` has a tokenizer.

    A model of tiled images (``projector.newline``) becomes a LlavaOnevisionForConditionalGeneration. Where
    ``vision/final`` is absent, the tower has one layer less and ``vision_feature_layer`` is -1: the same function
    without invented weights.

    Raises:
      UserError: an encoder or a projector that LLaVA's classes cannot have, parameters of another model, no image
        token, a folder that is not empty, a disk that is full. The folder is written whole or not at all.
    """
    vision, tokenizer = cfg.vision, text.tokenizer
    _check_llava(cfg)
    token_id = _token_id(tokenizer, "image token", text.image_token, cfg.decoder.vocab_size)
    final, tiled = _has_final(params, vision), cfg.projector.newline
    model = HubModel("llava_onevision" if tiled else "llava", vision, cfg.decoder, cfg.projector, final, token_id)
    language = folder.special_tokens(tokenizer) | text_of(cfg.decoder).write(cfg.decoder, options.dtype)
    tower = vision_of(vision).write(vision, final, options.dtype)
    raw = (llava.write_onevision if tiled else llava.write)(tower, language, token_id, vision)
    processor = llava.onevision_processor(vision, processors.write(vision)) if tiled else processors.write(vision)

    def write_chat(into: Path) -> None:
        token = tokenizer.convert_ids_to_tokens(token_id)
        folder.write_llava_processor(into, vision, token, _chat_template(text, token), tiled)

    lines = [
        f"A LLaVA-style multimodal LLM from PIVOT-JAX. It loads with `transformers.{raw['architectures'][0]}` "
        "and `transformers.AutoProcessor`.",
        "",
        options.note,
    ]
    card = "LLaVA-style multimodal LLM", "image-text-to-text", lines
    beside = _beside(raw, processor, tokenizer, write_chat, card)
    return _export(Path(out), tensors.Tensors(params, model, options.dtype), beside, options)


def export_qwen_vl(
    params: Mapping[str, Any],
    cfg: MLLMConfig,
    out: str | Path,
    options: ExportOptions = ExportOptions(),
    text: ExportText = ExportText(),
) -> Path:
    """Writes everything as a Qwen2VLForConditionalGeneration or Qwen2_5_VLForConditionalGeneration, by the tower.

    Raises:
      UserError: another encoder, a decoder without M-RoPE, or with heads that the class cannot have; see also
        :func:`export_mllm`.
    """
    vision, vocabulary, tokenizer = cfg.vision, cfg.decoder.vocab_size, text.tokenizer
    if vision.family not in qwen_vl.CLASSES:
        raise UserError(f"a {vision.family} encoder is not Qwen-VL's; export the model as LLaVA")
    token_id = _token_id(tokenizer, "image token", text.image_token, vocabulary)
    ids: Any = tuple(_token_id(tokenizer, "token around an image", token, vocabulary) for token in text.image_around)
    video = text.video_token  # no text has it, so its id may be any
    if isinstance(video, str):
        known = tokenizer is None or video in tokenizer.get_vocab()
        video = _token_id(tokenizer, "video token", video, vocabulary) if known else None
    model = HubModel(
        vision.family, vision, cfg.decoder, cfg.projector,
        image_token_id=token_id, image_around=ids, video_token_id=video,
    )  # fmt: skip
    language = folder.special_tokens(tokenizer) | qwen_vl.write_text(vision.family, cfg.decoder, options.dtype)
    raw, name = qwen_vl.write(model, language), qwen_vl.CLASSES[vision.family]

    def write_chat(into: Path) -> None:
        image = tokenizer.convert_ids_to_tokens(token_id).join(tokenizer.convert_ids_to_tokens(ids) or ("", ""))
        folder.write_chat_template(into, _chat_template(text, image, newline=not text.image_around))

    lines = [
        f"A {name} from PIVOT-JAX. It loads with `transformers.{name}` and `transformers.AutoProcessor`.",
        "",
        options.note,
    ]
    card = "Multimodal LLM", "image-text-to-text", lines
    beside = _beside(raw, qwen_vl.image_processor(vision), tokenizer, write_chat, card)
    return _export(Path(out), tensors.Tensors(params, model, options.dtype), beside, options)


def _chat_template(text: ExportText, image: str = IMAGE, *, newline: bool = True) -> str:
    """The tokenizer's own, or ``text.dialect`` as Jinja (see ``chat.jinja``)."""
    if text.dialect == TEMPLATE:
        return source_of(text.tokenizer)
    return chat.jinja(text.system, image, text.dialect, newline=newline, training=text.training)


def _beside(
    raw: Mapping[str, Any],
    processor: Mapping[str, Any] | None,
    tokenizer: Any,
    write_chat: Callable[[Path], None],
    card: tuple[str, str, list[str]],
) -> Callable[[Path], None]:
    """A function that writes all but the weights of a model that generates: config, processors, tokenizer, card.

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


def _export(out: Path, source: tensors.Tensors, beside: Callable[[Path], None], options: ExportOptions) -> Path:
    """Weights, then the other files, into a folder that appears only when all is written."""
    gathered = iter(source)
    if jax.process_index() != 0:
        tensors.drain(gathered)
        return out
    try:
        with files.whole_folder(out, overwrite=options.overwrite) as into:
            with options.show(source.bytes) if options.show else contextlib.nullcontext() as advance:
                tensors.write_shards(into, source, gathered, SHARD_BYTES, advance)
            beside(into)
    finally:
        if jax.process_count() > 1:
            tensors.drain(gathered)  # a failure here must not leave the other processes waiting
    return out


def _check_llava(cfg: MLLMConfig) -> None:
    """Raises UserError for a model that no class of LLaVA computes as we do."""
    vision = cfg.vision
    if cfg.second:
        raise UserError("Hugging Face's LLaVA has no class with two encoders; export its parts instead")
    if not vision.traits.penultimate or vision.traits.patch_input:
        raise UserError(
            f"Hugging Face's LLaVA takes no features of a '{vision.family}' encoder as we do; export its parts instead"
        )
    count = cfg.projector.layers + cfg.projector.reused
    if count != 2:
        raise UserError(f"Hugging Face's LLaVA has 2 projector layers, this model {count}; export its parts instead")
    if vision.pos_side != vision.grid:
        raise UserError(
            f"this encoder's position table of {vision.pos_side}x{vision.pos_side} positions is resized to "
            f"{vision.grid}x{vision.grid}, which Hugging Face's LLaVA does not do; export its parts instead"
        )


def _has_final(params: Mapping[str, Any], cfg: SquareVisionConfig) -> bool:
    vision = params.get("vision")
    if vision is None:
        raise UserError(f"the parameters hold no 'vision' (there is: {', '.join(sorted(params))})")
    return "final" in vision or not cfg.has_final


def _token_id(tokenizer: Any, what: str, token: str | int, vocab_size: int) -> int:
    if isinstance(token, int):
        token_id: Any = token
    elif tokenizer is None:
        raise UserError(f"{what} {token!r}: an export without a tokenizer needs its id (ExportText)")
    else:
        token_id = tokenizer.get_vocab().get(token)
    if token_id is None or not 0 <= token_id < vocab_size:
        raise UserError(f"{what} {token!r} (id {token_id}) is not in the vocabulary of {vocab_size}")
    return token_id
