"""Text of growing responses: the pieces of a stream, whatever their sizes, are the whole text."""

from __future__ import annotations

import numpy as np
import pytest

from pivot_jax.data.processing.spelling import Spelling
from pivot_jax.data.processing.tokenizer import load_tokenizer, train_bpe
from pivot_jax.serve.text import Text

WORDS = ["Which colour is it? It is red.\n  Größe: 3 μm, 日本語 und 🙂🙃 am Ende. "] * 3


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return load_tokenizer(train_bpe(WORDS, 300, tmp_path_factory.mktemp("tokenizer")))


def pieces(tokenizer, ids, cuts, finish, stops=(), **options):
    """The text in pieces of these numbers of tokens, and the growing counts of tokens."""
    text, found, counts = Text(tokenizer, stops, **options), [], []
    for start, stop in zip([0, *cuts], [*cuts, len(ids)], strict=True):
        piece = text.add(ids[start:stop], tokenizer.eos_token_id, finish if stop == len(ids) else None)
        found.append(piece.text)
        counts.append(piece.tokens)
    assert counts == sorted(counts)
    return found, counts


def random_cuts(rng, length):
    return sorted(rng.choice(np.arange(1, length), min(length - 1, int(rng.integers(0, 9))), replace=False).tolist())


@pytest.mark.parametrize("strip", [True, False])
def test_pieces_are_the_whole(tokenizer, strip):
    """Real text, and random tokens with halves of characters and special tokens among them."""
    rng = np.random.default_rng(0)
    end = tokenizer.eos_token_id
    for trial in range(150):
        ids = tokenizer(WORDS[0], add_special_tokens=False)["input_ids"]
        if trial % 2:
            ids = [i for i in rng.integers(0, len(tokenizer), 30).tolist() if i != end]
        ended = trial % 3 == 0
        ids = [*ids, end] if ended else ids
        found, counts = pieces(tokenizer, ids, random_cuts(rng, len(ids)), "stop" if ended else "length", strip=strip)
        whole = tokenizer.decode(ids, skip_special_tokens=True)
        assert "".join(found) == (whole.strip() if strip else whole)
        assert counts[-1] == len(ids) - ended


def test_a_stop_string_ends_the_text_before_it(tokenizer):
    """Nothing of it is sent before it is known whether it comes, and the tokens are those before it."""
    ids = tokenizer("It is red. It is blue", add_special_tokens=False)["input_ids"]
    for cut in range(1, len(ids)):
        found, counts = pieces(tokenizer, ids, [cut], "stop", stops=(" is blue", "never"), strip=False)
        assert "".join(found) == "It is red. It"
        assert tokenizer.decode(ids[: counts[-1]]).startswith("It is red. It")
        assert len(tokenizer.decode(ids[: counts[-1] - 1])) < len("It is red. It")
    found, _ = pieces(tokenizer, ids, [len(ids) - 1], "length", stops=(" is bluer",), strip=False)
    assert "".join(found) == "It is red. It is blue"


def test_half_of_a_character_waits_for_the_other_half(tokenizer):
    ids = tokenizer("a 🦊 b", add_special_tokens=False)["input_ids"]  # four bytes, none of which was trained
    found, _ = pieces(tokenizer, ids, list(range(1, len(ids))), "length", strip=False)
    assert "".join(found) == "a 🦊 b" and not any("�" in piece for piece in found)


def test_sentencepiece_keeps_the_space_of_a_continuation():
    """A tokenizer that drops the space before the first token: the text that continues a prompt has it."""

    class Pieces:
        words = (".", "▁Paris", "▁is", "<0xE2>")

        def decode(self, ids, **_):
            return "".join(self.words[i] for i in ids).replace("▁", " ").removeprefix(" ").replace("<0xE2>", "�")

        def __call__(self, text, **_):
            return {"input_ids": [0]}

        def convert_ids_to_tokens(self, token):
            return self.words[token]

    tokenizer = Pieces()
    assert Text(tokenizer, (), strip=False, before=[1]).add([2, 1], 9, "length").text == " is Paris"
    assert Text(tokenizer, (), strip=False).add([2, 1], 9, "length").text == "is Paris"
    spelling = Spelling(tokenizer)
    assert spelling.text(2) == " is" and spelling.bytes(2) == [32, 105, 115] and spelling.bytes(3) == [0xE2]
