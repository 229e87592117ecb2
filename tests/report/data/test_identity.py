"""Which rows, prompts and images are the same, against hand-made cases."""

from __future__ import annotations

import numpy as np
import pytest

from pivot_jax.data.example import Example, Message
from pivot_jax.data.processing.corruptions import Corruption
from pivot_jax.data.processing.images import Changed
from pivot_jax.report.data.identity import ImageKeys, alike, conflicts, groups, key, sharing, text_keys, with_images


def asked(question, answer, **more):
    return Example("id", (Message("user", question), Message("assistant", answer)), **more)


def lists(found):
    return [group.tolist() for group in found]


def test_groups_are_of_two_or_more_in_order():
    assert lists(groups(np.asarray([7, 3, 7, 5, 3, 7], np.uint64))) == [[0, 2, 5], [1, 4]]
    assert groups(np.asarray([1, 2, 3], np.uint64)) == [] and groups(np.zeros(0, np.uint64)) == []


def test_conflicts_are_prompts_with_more_than_one_answer():
    prompts, answers = np.asarray([1, 1, 2, 2, 3], np.uint64), np.asarray([9, 9, 9, 8, 7], np.uint64)
    assert lists(conflicts(prompts, answers)) == [[2, 3]]


def test_rows_that_share_an_image():
    """Row 0 has one image twice, which is no sharing; rows 1 and 2 have image 6 in common."""
    images, rows = np.asarray([5, 5, 6, 7, 6], np.uint64), np.asarray([0, 0, 1, 1, 2])
    assert lists(sharing(images, rows)) == [[1, 2]]


def test_texts_are_the_same_only_with_the_same_images_in_the_same_order():
    texts = np.full(5, 11, np.uint64)
    images = np.asarray([1, 2, 2, 1, 1, 2, 1], np.uint64)
    rows = np.asarray([0, 0, 1, 1, 2, 2, 3])  # (1, 2), (2, 1), (1, 2), (1), none
    found = with_images(texts, images, rows)
    assert lists(groups(found)) == [[0, 2]]
    assert found[4] == 11


def test_parts_of_a_key_do_not_run_into_each_other():
    assert key(["ab", "c"]) != key(["a", "bc"]) != key(["abc"]) and key(["a", "b"]) == key([b"a", "b"])
    assert key(["\ud83d"]) != key(["?"])  # half of a character, which JSON may hold


def test_prompt_and_answer_of_a_row_are_told_apart():
    one, other, third = (text_keys(asked(*texts)) for texts in (("Q", "A"), ("Q", "B"), ("Q2", "A")))
    assert one.prompt == other.prompt != third.prompt and one.answer == third.answer != other.answer
    assert len({one.whole, other.whole, third.whole}) == 3
    pair = Example("id", (Message("user", "Q"),), (), "A", "B")
    swapped = Example("id", (Message("user", "Q"),), (), "B", "A")
    assert text_keys(pair).prompt == one.prompt and text_keys(pair).answer != text_keys(swapped).answer
    prompt = Example("id", (Message("user", "Q"),), extra={"answer": "A"})
    assert text_keys(prompt).answer == one.answer  # prompts of online RL: the answer is a field


def test_images_are_the_same_by_content(tmp_path):
    """Two files of one content, one of the same size but another content, bytes, arrays, and changed images."""
    for name, content in (("a", b"1234"), ("b", b"1234"), ("c", b"1235"), ("d", b"12345")):
        (tmp_path / name).write_bytes(content)
    keys = ImageKeys()
    array = np.zeros((2, 3, 3), np.uint8)
    changed = [Changed(b"1234", Corruption("noise", level)) for level in (0.3, 0.4)]
    paths = [str(tmp_path / name) for name in ("a", "b", "c", "d", "none")]
    references = [*paths, b"1234", b"1234", array, array.reshape(3, 2, 3), *changed]
    found = np.asarray([keys.key(one) for one in references], np.uint64)
    assert lists(groups(found)) == [[5, 6]]
    assert lists(groups(keys.by_content(found))) == [[0, 1], [5, 6]]
    assert (ImageKeys().by_content(found) == found).all()


@pytest.mark.parametrize(
    ("chosen", "rejected", "want"),
    [("Red.", "Red.", "same"), ("Red.", " red. \n", "nearly"), ("two  cars", "Two cars", "nearly"), ("a", "b", "")],
)
def test_answers_that_are_nearly_the_same(chosen, rejected, want):
    assert alike(chosen, rejected) == want
