"""A GGUF file (llama.cpp) as a Hugging Face folder: config.json, float weights, tokenizer.

Quantised weights are dequantised by the ``gguf`` library. The folder is made once per file and kept in the cache;
everything that reads folders then reads it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from pivot_jax import files
from pivot_jax.data.processing.tokenizer import load_tokenizer
from pivot_jax.errors import UserError, suggest
from pivot_jax.hub.shards import INDEX

_CLASSES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM"}
_CONFIG = {  # key of the file, below its architecture's name -> key of config.json
    "embedding_length": "hidden_size",
    "block_count": "num_hidden_layers",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "context_length": "max_position_embeddings",
}
_OPTIONAL = {"attention.head_count_kv": "num_key_value_heads", "attention.key_length": "head_dim"}
_TOKENS = {"bos": "bos", "eos": "eos", "padding": "pad"}
_NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_TENSOR = re.compile(r"(?:blk\.(\d+)\.)?(\w+)\.(weight|bias)")
_PLAIN = {"F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16}  # kept as they are


def folder_of_gguf(file: Path) -> Path:
    """The folder of a GGUF file, in the cache; made at the first call, and again where the file has changed.

    Raises:
      UserError: a file that is no GGUF file or is cut off, an architecture, tensor or rotary scaling that is not read,
        a tokenizer that transformers cannot convert, no ``gguf`` library, or no space for the folder.
    """
    status = file.stat()
    identity = json.dumps([str(file.resolve()), status.st_size, status.st_mtime_ns, 2])
    folder = files.cache_folder() / "gguf" / f"{file.stem}-{hashlib.sha256(identity.encode()).hexdigest()[:16]}"
    if not (folder / "config.json").is_file():
        reader = _open(file)
        with files.whole_folder(folder, overwrite=True) as into:
            config = _config(file, reader)
            _write_weights(file, reader, config, into)
            load_tokenizer(file, "GGUF file").save_pretrained(into)
            files.write_text(into / "config.json", json.dumps(config, indent=2))
    return folder


def _open(file: Path) -> Any:
    try:
        from gguf import GGUFReader
    except ImportError:
        raise UserError(f"{file}: GGUF files are read by the gguf library; pip install gguf") from None
    try:
        return GGUFReader(file)
    except (ValueError, IndexError, KeyError, OSError) as error:
        raise UserError(f"{file} is no GGUF file, or it is cut off ({error}); fetch it again") from error


def _config(file: Path, reader: Any) -> dict[str, Any]:
    """config.json of the file's model."""

    def value(key: str) -> Any:
        field = reader.get_field(key)
        found = None if field is None else field.contents()
        return float(str(np.float32(found))) if isinstance(found, float) else found  # 1e-05, not 9.9999997e-06

    kind = value("general.architecture")
    if kind not in _CLASSES:
        raise UserError(f"{file}: general.architecture is {kind!r}; GGUF files are read of {', '.join(_CLASSES)}")
    scaling = value(f"{kind}.rope.scaling.type")
    if scaling not in (None, "none") or any(tensor.name == "rope_freqs.weight" for tensor in reader.tensors):
        raise UserError(
            f"{file}: its positions are scaled ({scaling or 'rope_freqs'}), which is not read from GGUF files; take "
            "the model's own Hugging Face folder"
        )
    config: dict[str, Any] = {"architectures": [_CLASSES[kind]], "model_type": kind, "hidden_act": "silu"}
    for key, name in _CONFIG.items():
        if (found := value(f"{kind}.{key}")) is None:
            raise UserError(f"{file} has no {kind}.{key}; fetch it again, or convert it with a newer llama.cpp")
        config[name] = found
    for key, name in _OPTIONAL.items():
        if (found := value(f"{kind}.{key}")) is not None:
            config[name] = found
    config["rope_theta"] = value(f"{kind}.rope.freq_base") or 10000.0  # llama.cpp's default
    for key, name in _TOKENS.items():
        config[f"{name}_token_id"] = value(f"tokenizer.ggml.{key}_token_id")
    sizes = {tensor.name: tuple(map(int, tensor.shape)) for tensor in reader.tensors}
    if "token_embd.weight" not in sizes:
        raise UserError(f"{file} has no token_embd.weight, so it holds no whole language model; fetch the whole file")
    config["tie_word_embeddings"] = "output.weight" not in sizes
    config["vocab_size"] = sizes["token_embd.weight"][1]  # the fastest axis comes first
    return config


def _write_weights(file: Path, reader: Any, config: Mapping[str, Any], into: Path) -> None:
    """A safetensors file for every block and one for the rest, each in memory alone."""
    from safetensors.numpy import save_file

    groups: dict[str, list[Any]] = {}
    for tensor in reader.tensors:
        found = _TENSOR.fullmatch(tensor.name)
        groups.setdefault(found[1] if found and found[1] else "rest", []).append(tensor)
    weight_map: dict[str, str] = {}
    for group, tensors in groups.items():
        name = f"model-{group}.safetensors"
        arrays = {_name(file, tensor.name): _array(file, tensor, config) for tensor in tensors}
        weight_map |= dict.fromkeys(arrays, name)
        save_file(arrays, into / name)
    files.write_text(into / INDEX, json.dumps({"metadata": {}, "weight_map": weight_map}))


def _name(file: Path, name: str) -> str:
    """Hugging Face's name of a tensor."""
    layer, part, kind = found.groups() if (found := _TENSOR.fullmatch(name)) else (None, name, "")
    if part not in _NAMES or not kind:
        raise UserError(f"{file}: tensor '{name}' is not known{suggest(part, _NAMES)}; our model does not compute it")
    return f"{f'model.layers.{layer}.' if layer else ''}{_NAMES[part]}.{kind}"


def _array(file: Path, tensor: Any, config: Mapping[str, Any]) -> np.ndarray:
    """The tensor in float, in Hugging Face's layout."""
    from gguf.quants import dequantize

    shape = tuple(map(int, tensor.shape))[::-1]
    kind = tensor.tensor_type.name
    if kind in _PLAIN:
        found = np.asarray(tensor.data).view(_PLAIN[kind]).reshape(shape)
    else:
        try:
            found = dequantize(tensor.data, tensor.tensor_type).reshape(shape)
        except NotImplementedError:
            raise UserError(f"{file}: '{tensor.name}' is stored as {kind}, which gguf cannot read in NumPy") from None
    part = tensor.name.split(".")[-2]
    if config["model_type"] == "llama" and part in ("attn_q", "attn_k"):
        # llama.cpp turns neighbouring pairs of a head, transformers its two halves: even rows first, then odd ones.
        key = "num_attention_heads" if part == "attn_q" else "num_key_value_heads"
        heads = config.get(key) or config["num_attention_heads"]
        pairs = found.reshape(heads, shape[0] // heads // 2, 2, *shape[1:])
        found = pairs.swapaxes(1, 2).reshape(shape)
    return np.ascontiguousarray(found)
