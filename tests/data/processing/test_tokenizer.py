"""The trained BPE: same texts give the same folder; transformers loads it; ChatML and newlines come out as Qwen2's."""

import subprocess
import sys

import pytest
from transformers import AutoTokenizer

from pivot_jax.data.processing.tokenizer import load_tokenizer, train_bpe
from pivot_jax.errors import UserError

TEXTS = ["What color is the circle?", "The circle is red.", "There is a small red circle at the top left."] * 5


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return train_bpe(TEXTS, 400, tmp_path_factory.mktemp("bpe"))


def test_same_texts_same_folder(folder, tmp_path):
    again = train_bpe(TEXTS, 400, tmp_path)
    for file in sorted(folder.iterdir()):
        assert file.read_bytes() == (again / file.name).read_bytes(), file.name


def test_special_tokens_and_vocabulary(folder):
    tokenizer = AutoTokenizer.from_pretrained(str(folder))
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|im_end|>", "<|endoftext|>")
    for token in ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|image_pad|>"):
        assert tokenizer(token)["input_ids"] == [tokenizer.convert_tokens_to_ids(token)]
    assert len(tokenizer) <= 400
    assert len(tokenizer("assistant")["input_ids"]) == 1


@pytest.mark.parametrize("text", ["The circle is red.", "Zürich 2 × 3\n\nπ ≠ 3.14 😀", "  spaces\tand\r\nlines", ""])
def test_any_text_round_trips(folder, text):
    tokenizer = load_tokenizer(folder)
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_chat_template_is_chatml(folder):
    tokenizer = load_tokenizer(folder)
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": "<|image_pad|>\nHow many?"}], tokenize=False, add_generation_prompt=True
    )
    assert text == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        "<|im_start|>user\n<|image_pad|>\nHow many?<|im_end|>\n<|im_start|>assistant\n"
    )


def test_pieces_equal_qwen2s(folder, shared_data):
    """The pre-tokenizer cuts text where the real Qwen2.5 tokenizer does (newlines, digits, leading spaces)."""
    text = "Is it 12 or 345?\nYes.\n\n  It's 3.5 m\t(about)!\n"
    real = load_tokenizer(shared_data / "qwen2_5_vl_processor")
    qwen = real.backend_tokenizer.pre_tokenizer.pre_tokenize_str(text)
    assert load_tokenizer(folder).backend_tokenizer.pre_tokenizer.pre_tokenize_str(text) == qwen


def test_bad_input_is_refused_in_one_line(tmp_path):
    with pytest.raises(UserError, match="no folder at"):
        load_tokenizer(tmp_path / "missing")
    with pytest.raises(UserError, match="holds no tokenizer"):
        load_tokenizer(tmp_path)
    with pytest.raises(UserError, match="too small"):
        train_bpe(TEXTS, 100, tmp_path)


def test_nothing_is_said_of_a_missing_pytorch(folder):
    """In a process in which PyTorch is not found, as after an installation without the test extra."""
    code = (
        "import importlib.util as util\nfind = util.find_spec\n"
        "util.find_spec = lambda name, *more: None if name == 'torch' else find(name, *more)\n"
        f"from pivot_jax.data.processing.tokenizer import load_tokenizer\nload_tokenizer({str(folder)!r})\n"
        "from transformers.utils import is_torch_available\nassert not is_torch_available()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and not done.stderr, done.stderr


WITHOUT_TORCH = """
import importlib.util, sys
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name.split(".")[0] == "torch" else found(name, *rest)
if sys.argv[1]:
    from pivot_jax.data.processing.tokenizer import load_tokenizer
    load_tokenizer(sys.argv[1])
else:
    from transformers import AutoTokenizer
"""


def test_nobody_is_told_that_pytorch_is_missing(tmp_path):
    """transformers says so when it is imported, unless we import it."""
    folder = train_bpe(["a b c"], 270, tmp_path / "tokenizer")
    for argument, said in (("", True), (str(folder), False)):
        command = [sys.executable, "-c", WITHOUT_TORCH, argument]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
        assert ("PyTorch was not found" in done.stderr) == said, done.stderr
