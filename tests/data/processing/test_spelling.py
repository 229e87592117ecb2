"""The text of single tokens, and of those that share a character."""

from __future__ import annotations

from pivot_jax.data.processing.spelling import HALF, Spelling


def test_tokens_are_spelled_in_text_and_bytes(tokenizer):
    spelling = Spelling(tokenizer)
    content = "It is red: 🦊 日本"
    ids = tokenizer(content, add_special_tokens=False)["input_ids"]
    assert b"".join(bytes(spelling.bytes(i)) for i in ids) == content.encode()
    assert spelling.text(tokenizer(" circle", add_special_tokens=False)["input_ids"][0]).startswith(" c")
    assert spelling.text(tokenizer.eos_token_id) == "<|im_end|>"


def ids_of(tokenizer, text):
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def test_pieces_are_the_text_and_no_token_is_lost(tokenizer):
    content = "What is it? 🦊🦊 日本 é <|im_end|>\n"
    ids = ids_of(tokenizer, content)
    found = Spelling(tokenizer).pieces(ids)
    assert "".join(text for text, _ in found) == content
    assert [number for _, numbers in found for number in numbers] == ids
    assert [len(numbers) for text, numbers in found if text == "🦊"] == [4, 4]


def test_half_of_a_character_stays_one_piece(tokenizer):
    """At the end, before another token, and bytes that no character begins with."""
    spelling, fox = Spelling(tokenizer), ids_of(tokenizer, "🦊")
    red = ids_of(tokenizer, "red")[:1]
    assert spelling.pieces(fox[:2]) == [(HALF, tuple(fox[:2]))]
    assert spelling.pieces([*fox[:2], *red]) == [(HALF, tuple(fox[:2])), (spelling.text(red[0]), tuple(red))]
    lost = spelling.pieces(fox[1:] * 3)
    assert [number for _, numbers in lost for number in numbers] == fox[1:] * 3
    assert all(len(numbers) <= 4 for _, numbers in lost)
