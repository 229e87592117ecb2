"""Encoded rows as text: every token once, with the mask that training uses, whatever the kind of row."""

from __future__ import annotations

import dataclasses
from itertools import pairwise

import numpy as np
import pytest

from pivot_jax.data.example import Example, Message
from pivot_jax.data.processing.tokenizer import load_tokenizer, train_bpe
from pivot_jax.report.data import tokens
from pivot_jax.report.data.tokens import Reader, differing, scored, shortened
from pivot_jax.report.data_rows import Span
from tests.tiny import processing

QUESTION = Message("user", "<image>\nWhat is it?")
IMAGE = np.zeros((8, 8, 3), np.uint8)
CONVERSATION = Example("r", (QUESTION, Message("assistant", "It is red.")), (IMAGE,))
PAIR = Example("r", (QUESTION,), (IMAGE,), "It is red.", "It is blue, I think.")
VISUAL = Example("r", (QUESTION,), (IMAGE, IMAGE + 1), "It is red.", images_rejected=1)
LABELLED = dataclasses.replace(PAIR, chosen=None, mismatched="Two cars.")
ROWS = {"sft": CONVERSATION, "preference": PAIR, "visual": VISUAL, "unpaired": LABELLED, "prompt": CONVERSATION}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    texts = ["What is it? It is red.", "It is blue, I think."]
    return load_tokenizer(train_bpe(texts, 320, tmp_path_factory.mktemp("tokenizer")))


def encode(tokenizer, kind, mask="response_only"):
    made = processing.processor(tokenizer, kind=kind.replace("visual", "preference"), loss_mask=mask, max_images=2)
    return made.encode(ROWS[kind])


@pytest.mark.parametrize("mask", ["response_only", "pivot"])
@pytest.mark.parametrize("kind", ROWS)
def test_scored_tokens_are_the_targets(tokenizer, kind, mask):
    row = encode(tokenizer, kind, mask)
    found = scored(row)
    order = np.lexsort((np.arange(len(row.targets)), row.target_branches))
    by_branch = [row.tokens[found & (row.branches == branch)] for branch in np.unique(row.branches)]
    assert np.concatenate(by_branch).tolist() == row.targets[order].tolist()
    assert found.any() == (kind != "prompt")


def test_the_scored_text_is_the_answer_with_its_end(tokenizer):
    row = encode(tokenizer, "sft")
    stream = Reader(tokenizer, 4).stream("t", row, np.arange(len(row.tokens)))
    text = "".join(span.text for span in stream.spans if span.scored)
    assert text == "It is red.<|im_end|>\n"
    whole = "".join(span.text for span in stream.spans)
    assert whole == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n<image>\nWhat is it?<|im_end|>\n"
        "<|im_start|>assistant\nIt is red.<|im_end|>\n"
    )
    kinds = {span.text: span.kind for span in stream.spans}
    assert kinds["<image>"] == "image" and kinds["<|im_end|>"] == "special" and kinds["."] == "text"
    (image,) = (span for span in stream.spans if span.kind == "image")
    assert image.count == 4 and image.ids == (tokenizer.convert_tokens_to_ids("<|image_pad|>"),)
    ids = [number for span in stream.spans for number in (span.ids * span.count if span.kind == "image" else span.ids)]
    assert ids == row.tokens.tolist()


def test_images_next_to_each_other_are_two(tokenizer):
    turns = Message("user", "<image><image>What?"), Message("assistant", "Red.")
    row = processing.processor(tokenizer, kind="sft", max_images=2).encode(Example("r", turns, (IMAGE, IMAGE)))
    stream = Reader(tokenizer, 4).stream("t", row, np.arange(len(row.tokens)))
    assert [span.count for span in stream.spans if span.kind == "image"] == [4, 4]


def test_the_difference_of_two_answers():
    one, other = [1, 2, 3, 4, 5], [1, 9, 3, 5]
    marks = differing(one, other)
    assert marks[0].tolist() == [False, True, False, True, False] and marks[1].tolist() == [False, True, False, False]
    assert not any(part.any() for part in differing(one, one))
    whole = differing([1, 2], [])
    assert whole[0].tolist() == [True, True] and whole[1].tolist() == []


def test_the_difference_is_marked_in_the_stream(tokenizer):
    row = encode(tokenizer, "preference")
    of = {branch: np.flatnonzero(row.branches == branch) for branch in (1, 2)}
    marks = differing(*(row.tokens[of[branch]].tolist() for branch in (1, 2)))
    streams = [Reader(tokenizer, 4).stream("t", row, of[branch], marks[branch - 1]) for branch in (1, 2)]
    left, right = ("".join(span.text for span in stream.spans if span.changed) for stream in streams)
    assert left.startswith(" red") or "red" in left
    assert "blue, I think" in right and "It is" not in left + right and all(span.scored for span in streams[0].spans)


def test_characters_of_several_tokens_are_one_piece(tokenizer):
    turns = QUESTION, Message("assistant", "🦊 日本!")
    row = processing.processor(tokenizer, kind="sft").encode(Example("r", turns, (IMAGE,)))
    stream = Reader(tokenizer, 4).stream("t", row, np.flatnonzero(scored(row)))
    pieces = {span.text: len(span.ids) for span in stream.spans}
    assert pieces["🦊"] == 4 and pieces["!"] == 1 and not any("�" in text for text in pieces)


def test_the_middle_of_a_long_row_is_left_out(monkeypatch):
    monkeypatch.setattr(tokens, "LONGEST", 4)
    spans = [Span(str(i), (i,)) for i in range(9)]
    spans[4] = Span("<image>", (0,), "image", count=10)
    shown, left_out, at = shortened(spans)
    assert [span.text for span in shown] == ["0", "1", "7", "8"] and (left_out, at) == (14, 2)
    assert shortened(spans[:4]) == (spans[:4], 0, 0)
    assert all(before.text != after.text for before, after in pairwise(shown))
