"""Long texts are not tokenised whole: the kept ids, flags and messages are as if they were."""

from __future__ import annotations

import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pivot_jax.data.example import Example, Message
from pivot_jax.data.processing import template
from pivot_jax.data.processing.template import Format, Template
from pivot_jax.errors import RowError
from tests.tiny import processing

# Words, digits, punctuation, combining marks, scripts without spaces, an emoji of several code points, a run.
WORDS = st.sampled_from(["the", "red", "circles,", "don't", "12345", "x=3.14;", "é", "e\u0301", "中文字符", "ไทย",
                         "👩‍👩‍👧", "!?!", "_" * 9, "https://a.b/c?d=e", "\u00a0"])  # fmt: skip
SPACES = st.sampled_from([" ", "  ", "\n", "\n\n", "\t", " \n ", "", " " * 70, "\r\n", "\u3000"])
TEXTS = st.lists(st.one_of(WORDS, SPACES, st.text(max_size=6), st.text("ab ", max_size=40)), min_size=1, max_size=25)


@pytest.fixture(scope="module", params=["trained", "qwen"])
def any_tokenizer(request, tokenizer):
    return tokenizer if request.param == "trained" else request.getfixturevalue("qwen")


@settings(max_examples=300, deadline=None)
@given(pieces=TEXTS, repeat=st.integers(1, 60), longest=st.integers(1, 40))
def test_the_kept_ids_are_those_of_the_whole_text(any_tokenizer, pieces, repeat, longest):
    """With the slack that is used, and texts long enough to be shortened at this limit."""
    text = ("".join(pieces) * repeat).encode("utf-8", "ignore").decode()
    whole = any_tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    made = Template(any_tokenizer, Format(), longest)
    made.whole = 8 * longest + 40  # characters; sooner than in use, so that many of the texts are shortened
    found = made.text(text)
    assert found == (whole if len(found) == len(whole) else whole[: longest + 1])
    assert len(found) == len(whole) or len(found) > longest


def test_only_a_part_of_a_long_text_is_tokenised(qwen, monkeypatch):
    """Ten million characters in a twentieth of a second; runs of spaces, of which a token holds many, still suffice."""
    seen = []
    ids = Template._ids
    monkeypatch.setattr(Template, "_ids", lambda self, text: seen.append(len(text)) or ids(self, text))
    made = Template(qwen, Format(), 2048)
    seen.clear()
    start = time.process_time()
    assert len(made.text("The circle is red. " * 500_000)) == 2049
    assert seen == [pytest.approx(made.whole, abs=4)] and time.process_time() - start < 1
    seen.clear()
    assert len(made.text(" " * 4_000_000)) == 2049 and len(seen) > 1 and max(seen) < 2_000_000


@pytest.mark.parametrize("kind", ["sft", "preference", "prompt", "contrastive"])
def test_rows_are_as_if_all_was_tokenised(tokenizer, kind, monkeypatch):
    """Tokens, targets and the flag, of answers of every length around the limit; and which rows are bad, and why."""
    question, short = Message("user", "<image>\nWhat color?"), "It is red."
    examples = []
    for count in (1, 30, 40, 41, 42, 80, 120, 500, 3000):
        text = "red circle! " * count
        examples += [
            Example(f"answer {count}", (question, Message("assistant", text)), ("a.png",), text, short),
            Example(f"question {count}", (Message("user", f"<image>{text}"), Message("assistant", short)), ("a.png",),
                    short, text),
            Example(f"last image {count}", (Message("user", f"{text}<image>"), Message("assistant", short)), ("a.png",),
                    short, text),
        ]  # fmt: skip
    if kind == "preference":
        examples = [Example(x.id, x.messages[:1], x.images, x.chosen, x.rejected) for x in examples]

    def rows():
        made = processing.chat(tokenizer, image_tokens=4, max_length=80)
        for example in examples:
            try:
                row = made.encode(example, kind)
                fields = (row.tokens, row.targets, row.sources, row.branches, row.image_slots)
                yield [field.tolist() for field in fields], row.truncated
            except RowError as error:
                yield error.reason

    shortened = list(rows())
    monkeypatch.setattr(template, "CHARACTERS", 1 << 30)
    whole = list(rows())
    assert len({str(row) for row in whole}) > 2
    for example, ours, reference in zip(examples, shortened, whole, strict=True):
        if ours != reference:  # only the number in the message differs
            assert isinstance(ours, str) and "more than 80" in ours, example.id
            words = ours.split("more than 80")
            assert reference.startswith(words[0]) and reference.endswith(words[1]), example.id


def test_threads_tokenise_at_the_same_time(qwen):
    made = Template(qwen, Format())
    texts = [f"{i} The circle at the left is {'very ' * (i % 50)}red." for i in range(400)]
    want = [qwen(text, add_special_tokens=False)["input_ids"] for text in texts]
    found, errors = {}, []

    def work(number: int) -> None:
        try:
            found[number] = [made.text(text) for text in texts]
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors and all(ids == want for ids in found.values()) and len(found) == 4


def test_truncation_that_a_tokenizer_file_asks_for_is_undone(tokenizer):
    tokenizer.backend_tokenizer.enable_truncation(3)
    made = Template(tokenizer, Format())
    assert len(made.text("What color is the circle? The circle is red.")) > 3
