"""Tokenizers: loading a folder through ``transformers``, and training a small byte-level BPE for the demo."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pivot_jax import files
from pivot_jax.config import catalogue
from pivot_jax.config.paths import located, unset
from pivot_jax.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PAD, START, END, IMAGE = "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|image_pad|>"
SPECIAL = (PAD, START, END, IMAGE)
BYTES = 256
GGUF = ".gguf"  # suffix of llama.cpp's files
LEGACY_TEMPLATE = "chat_template.json"

# Qwen2's pre-tokenizer: a word with its leading space, single digits, punctuation with the newlines after it.
QWEN2_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

CHATML = (
    "{% for message in messages %}"
    "{% if loop.first and message['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
CHAT_WORDS = "system\nYou are a helpful assistant.\nuser\nassistant\n"


def _transformers() -> Any:
    """The package, imported without its warning that PyTorch is missing: nothing here needs it."""
    log = logging.getLogger("transformers")

    def useful(record: logging.LogRecord) -> bool:
        return "PyTorch was not found" not in record.getMessage()

    log.addFilter(useful)
    try:
        import transformers
    finally:
        log.removeFilter(useful)
    return transformers


def train_bpe(texts: Iterable[str], vocab_size: int, out_dir: str | Path) -> Path:
    """Trains a byte-level BPE with Qwen2's pre-tokenizer and special tokens and writes a tokenizer folder.

    The folder loads with :func:`load_tokenizer` and with ``transformers.AutoTokenizer``. Its chat template is ChatML; a
    turn ends with ``<|im_end|>``, and ``<|endoftext|>`` pads. The same texts give the same folder. Small corpora may
    give fewer than ``vocab_size`` tokens.

    Raises:
      UserError: ``vocab_size`` is too small for the 256 bytes and the special tokens.
    """
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    if vocab_size < BYTES + len(SPECIAL):
        raise UserError(f"tokenizer: vocab_size {vocab_size} is too small; at least {BYTES + len(SPECIAL)} are needed")
    bpe = Tokenizer(models.BPE())
    bpe.normalizer = normalizers.NFC()
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN2_WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    bpe.train_from_iterator([CHAT_WORDS, *texts], trainer)
    # After the ordinary tokens, as in Qwen2, so that the alphabet does not change special ids.
    bpe.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    tokenizer = _transformers().PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token=END,
        pad_token=PAD,
        additional_special_tokens=[START, IMAGE],
        clean_up_tokenization_spaces=False,
        model_max_length=32768,
    )
    tokenizer.chat_template = CHATML
    out = Path(out_dir)
    out.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(str(out))
    return out


def save_tokenizer(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Writes the tokenizer to a folder that :func:`load_tokenizer` reads; an earlier one of ours is replaced.

    Raises:
      UserError: ``folder`` holds anything else, or could not be written.
    """
    with files.whole_folder(folder, overwrite=True) as partial:
        tokenizer.save_pretrained(str(partial))


def load_tokenizer(
    path: str | Path, key: str = "tokenizer.path", *, chat_template: str | Path = ""
) -> PreTrainedTokenizerBase:
    """Loads the tokenizer of a folder (a trained one or a Hugging Face checkpoint's) or of a GGUF file.

    ``package:NAME/FILE`` is one of an installed Python package. Never from the network.

    Args:
      key: the config key or option that names the folder, for messages.
      chat_template: Jinja file of its chat template, in place of the folder's; also one of the package's ``configs``.

    Raises:
      UserError: the folder is missing or holds no tokenizer, or the file cannot be read.
    """
    folder = located(path)
    named = {"pretrained_model_name_or_path": str(folder)}
    if folder.suffix == GGUF and folder.is_file():
        named = {"pretrained_model_name_or_path": str(folder.parent), "gguf_file": folder.name}
        folder = folder.parent
    elif not str(path) or not folder.is_dir():
        if missing := unset(path):
            raise UserError(f"{key}: no folder at '{path}'{missing}")
        raise UserError(
            f"{key}: no folder at '{path}'; name a folder with tokenizer.json: a model's from Hugging Face "
            "(hf download ORG/NAME --local-dir DIR), or for configs/demo the one that `pivot-jax demo` writes first"
        )
    try:
        tokenizer: Any = _transformers().AutoTokenizer.from_pretrained(**named, local_files_only=True)
    except Exception as error:  # transformers passes on whatever its libraries raise
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise UserError(
            f"{key}: '{path}' holds no tokenizer that transformers can load ({reason}); fetch the tokenizer's files of "
            "this model (tokenizer.json, tokenizer_config.json)"
        ) from error
    if chat_template:
        tokenizer.chat_template = _read_template(Path(chat_template))
    elif tokenizer.chat_template is None:
        tokenizer.chat_template = _legacy_template(folder)
    return tokenizer


def _read_template(file: Path) -> str:
    packaged = catalogue.folder() / file
    file = packaged if packaged.is_file() and not file.is_file() else file
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"tokenizer.chat_template: '{file}' cannot be read ({error}); name a Jinja file") from None


def _legacy_template(folder: Path) -> str | None:
    """The template where processors of transformers before 5 keep theirs."""
    try:
        return json.loads((folder / LEGACY_TEMPLATE).read_text(encoding="utf-8"))["chat_template"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
