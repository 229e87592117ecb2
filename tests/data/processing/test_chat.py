"""Templates, label masks, image places and cutting to length."""

from __future__ import annotations

import json
import unicodedata
from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from pivot_jax import config as configs
from pivot_jax.data.example import Example, Message
from pivot_jax.data.processing.dialects import DIALECTS
from pivot_jax.data.sources import read
from pivot_jax.errors import RowError, UserError
from tests.tiny import chat_templates, processing

TALK = Example(
    "talk",
    (
        Message("user", "<image>\nWhat color?"),
        Message("assistant", "red"),
        Message("user", "Sure?\nSay."),
        Message("assistant", "yes"),
    ),
    ("a.png",),
)
PAIR = Example("pair", (Message("user", "<image>\nWhat color is the circle?"),), ("a.png",), "It is red.", "It is blue")
# Qwen2.5: <|im_start|> 151644, <|im_end|> 151645, <|image_pad|> 151655, newline 198, system 8948, user 872,
# assistant 77091, "You are a helpful assistant." 2610 525 264 10950 17847 13
S, E, I, NL = 151644, 151645, 151655, 198
SYSTEM = [S, 8948, NL, 2610, 525, 264, 10950, 17847, 13, E, NL]
GOLDEN = [
    *SYSTEM,
    S, 872, NL, I, I, I, I, NL, 3838, 1894, 30, E, NL,
    S, 77091, NL, 1151, E, NL,
    S, 872, NL, 39814, 5267, 45764, 13, E, NL,
    S, 77091, NL, 9693, E, NL,
]  # fmt: skip


def masked(row, n: int) -> list[int]:
    """Labels in PyTorch's form: the id where it is scored, -100 elsewhere."""
    labels = np.full(n, -100)
    labels[row.sources + 1] = row.targets
    return labels.tolist()


def test_label_mask_golden_values(qwen):
    """Exact ids and labels of a fixed conversation with the real tokenizer, in both modes."""
    strict = processing.chat(qwen, image_tokens=4).encode(TALK, "sft")
    assert strict.tokens.tolist() == GOLDEN
    n = len(GOLDEN)
    want = [-100] * n
    first, second = GOLDEN.index(1151), GOLDEN.index(9693)
    for start in (first, second):
        want[start : start + 3] = GOLDEN[start : start + 3]
    assert masked(strict, n) == want

    pivot = processing.chat(qwen, image_tokens=4, loss_mask="pivot").encode(TALK, "sft")
    assert pivot.tokens.tolist() == GOLDEN
    for start in (first, second):  # the whole turn, from its header on
        want[start - 3 : start + 3] = GOLDEN[start - 3 : start + 3]
    for place, token in enumerate(GOLDEN):  # every <|im_start|> and newline; nothing predicts the first token
        if token in (S, NL) and place:
            want[place] = token
    assert masked(pivot, n) == want
    assert want[0] == -100 and want[14:18] == [-100] * 4  # image places
    # "?\n" is one token (5267), which is not the newline token, so it stays masked, as in the paper's code.
    assert want[GOLDEN.index(5267)] == -100 and want[GOLDEN.index(E)] == -100


def test_label_mask_with_a_small_tokenizer(tokenizer):
    """The same rule stated over token texts, so that it holds for any tokenizer with the control tokens."""
    start, end, image, newline = (
        tokenizer.convert_tokens_to_ids(t) for t in ("<|im_start|>", "<|im_end|>", "<|image_pad|>", "Ċ")
    )
    row = processing.chat(tokenizer, image_tokens=3, loss_mask="pivot").encode(TALK, "sft")
    ids, labels = row.tokens.tolist(), masked(row, len(row.tokens))
    turns, at = [], [i for i, token in enumerate(ids) if token == start]
    for a, b in zip(at, [*at[1:], len(ids)], strict=True):
        turns.append((tokenizer.decode(ids[a + 1 : b]).split("\n")[0], a, b))
    assert [role for role, _, _ in turns] == ["system", "user", "assistant", "user", "assistant"]
    for role, a, b in turns:
        for place in range(a, b):
            scored = role == "assistant" or ids[place] in (start, newline)
            assert labels[place] == (ids[place] if scored and place else -100), (role, place)
    assert ids.count(image) == 3 and ids.count(end) == 5
    assert row.image_slots[np.asarray(ids) == image].tolist() == [0, 1, 2]


@pytest.mark.parametrize("system", ["You are a helpful assistant.", ""])
def test_pieces_equal_the_whole_string(qwen, shared_data, system):
    """Real rows: ids of our pieces are the ids of the whole ChatML string, and decode back to it."""
    sources = (
        {"format": "scienceqa", "path": str(shared_data / "scienceqa_test_img/data.jsonl"), "sampling": "random:60"},
        {"format": "llava", "path": str(shared_data / "llava_pretrain_mini/data.json"), "sampling": "random:60"},
        {"format": "preference_pairs", "path": str(shared_data / "mathvision/preference_pairs.jsonl")},
    )
    made = processing.chat(qwen, image_tokens=1, system=system, max_length=100_000)
    count = 0
    for source in sources:
        rows = read(source)
        for i in range(0, len(rows), 1 if source["format"] != "preference_pairs" else 5):
            example = rows[i]
            answer = example.chosen if example.chosen is not None else example.messages[-1].content
            text = f"<|im_start|>system\n{system}<|im_end|>\n" if system else ""
            question = example.messages[0].content.replace("<image>", "<|image_pad|>")
            text += f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n{answer}<|im_end|>\n"
            ids = made.encode(example, "sft").tokens.tolist()
            assert ids == qwen(text)["input_ids"], example.id
            count += 1
    assert count > 150


def test_golden_tokens_inside_a_conversation(qwen, shared_data):
    """The 22 golden encodings stand unchanged inside the question's and the answer's turn."""
    goldens = json.loads((shared_data / "qwen2_5_vl_processor/golden_tokens.json").read_text())
    made, used = processing.chat(qwen, image_tokens=1), 0
    for golden in goldens:
        text = golden["text"]
        if not text.strip() or "<|" in text or text[0].isspace() or text != text.strip():
            continue
        row = made.encode(Example("g", (Message("user", "Q"), Message("assistant", text))), "sft")
        assert row.targets.tolist() == [*golden["ids"], E, NL], text
        used += 1
    assert used >= 12


def test_chat_template_of_the_tokenizer_agrees(qwen):
    """Text-only turns through the tokenizer's own template give the same ids, also with the answer left open."""
    messages = [("user", "Hi  there\n\nyou"), ("assistant", "Hello!\nYes."), ("user", "1+1=?"), ("assistant", "2")]
    example = Example("t", tuple(Message(role, text) for role, text in messages))
    dicts = [{"role": role, "content": text} for role, text in messages]
    made = processing.chat(qwen, image_tokens=1)
    whole = qwen.apply_chat_template(dicts, tokenize=True, return_dict=False)
    assert made.encode(example, "sft").tokens.tolist() == whole
    open_ = qwen.apply_chat_template(dicts[:-1], tokenize=True, add_generation_prompt=True, return_dict=False)
    assert made.encode(example, "prompt").tokens.tolist() == open_


def test_preference_row_shares_the_prompt(tokenizer):
    made = processing.chat(tokenizer, image_tokens=2)
    row, prompt = made.encode(PAIR, "preference"), made.encode(PAIR, "prompt").tokens
    p = len(prompt)
    assert row.tokens[:p].tolist() == prompt.tolist()
    for branch, text in ((1, PAIR.chosen), (2, PAIR.rejected)):
        inside = row.branches == branch
        ids = row.tokens[inside]
        assert tokenizer.decode(ids) == f"{text}<|im_end|>\n"
        assert row.positions[inside].tolist() == list(range(p, p + len(ids)))
        mine = row.target_branches == branch
        assert row.targets[mine].tolist() == ids.tolist()
        start = int(np.flatnonzero(inside)[0])
        assert row.sources[mine].tolist() == [p - 1, *range(start, start + len(ids) - 1)]
    assert set(row.branches[:p]) == {0} and row.positions[:p].tolist() == list(range(p))
    assert len(row.targets) == len(row.tokens) - p


def test_branches_equal_the_separate_conversations(tokenizer):
    """Prompt + branch is the SFT row of that answer: same ids, and the same scored tokens in the strict mode."""
    made = processing.chat(tokenizer, image_tokens=2)
    row = made.encode(PAIR, "preference")
    for branch, answer in ((1, PAIR.chosen), (2, PAIR.rejected)):
        alone = made.encode(Example("x", (*PAIR.messages, Message("assistant", answer)), PAIR.images), "sft")
        assert row.tokens[np.isin(row.branches, (0, branch))].tolist() == alone.tokens.tolist()
        assert row.targets[row.target_branches == branch].tolist() == alone.targets.tolist()


def test_pivot_mask_of_a_pair_scores_the_prompt_for_every_branch(tokenizer):
    strict = processing.chat(tokenizer, image_tokens=2).encode(PAIR, "preference")
    pivot = processing.chat(tokenizer, image_tokens=2, loss_mask="pivot").encode(PAIR, "preference")
    alone = processing.chat(tokenizer, image_tokens=2, loss_mask="pivot").encode(PAIR, "sft")
    shared = pivot.target_branches == 0
    assert pivot.targets[~shared].tolist() == strict.targets.tolist()
    assert pivot.targets[pivot.target_branches != 2].tolist() == alone.targets.tolist()
    assert (pivot.sources[shared] < len(alone.tokens)).all() and shared.sum() > 5


def test_prompt_is_the_beginning_of_the_training_row(tokenizer):
    made = processing.chat(tokenizer, image_tokens=2)
    prompt, row = made.encode(TALK, "prompt").tokens, made.encode(TALK, "sft").tokens
    assert row[: len(prompt)].tolist() == prompt.tolist()
    assert tokenizer.decode(prompt).endswith("<|im_start|>assistant\n")
    assert (
        made.decode([*tokenizer("yes it is")["input_ids"], made.end_id, made.template.newline_id, made.pad_id])
        == "yes it is"
    )


def test_prompt_needs_no_answer_to_be_there(tokenizer):
    made = processing.chat(tokenizer, image_tokens=2)
    wanted = made.encode(TALK, "prompt").tokens.tolist()
    for last in ((), (Message("assistant", ""),), (Message("assistant", "other"),)):
        assert made.encode(Example("p", (*TALK.messages[:3], *last), ("a.png",)), "prompt").tokens.tolist() == wanted


def test_empty_lines_before_an_answer_are_dropped(qwen):
    """Else the header's newline and the answer's would become one token that no prompt ends with."""
    made = processing.chat(qwen, image_tokens=1)
    plain = made.encode(Example("a", (Message("user", "Q"), Message("assistant", "  indented"))), "sft")
    lined = made.encode(Example("a", (Message("user", "Q"), Message("assistant", "\n \n  indented"))), "sft")
    assert plain.tokens.tolist() == lined.tokens.tolist()
    assert qwen.decode(plain.targets).startswith("  indented")


def test_plain_template_of_stage_1a(tokenizer):
    caption = Example("c", (Message("user", "Describe.\n<image>"), Message("assistant", "a red circle")), ("a.png",))
    row = processing.chat(tokenizer, image_tokens=3, template="plain").encode(caption, "sft")
    ids = [*tokenizer("a red circle")["input_ids"], *tokenizer("\n")["input_ids"]]
    image = tokenizer.convert_tokens_to_ids("<|image_pad|>")
    assert row.tokens.tolist() == [image] * 3 + ids
    assert row.targets.tolist() == ids and row.sources.tolist() == list(range(2, 2 + len(ids)))
    prompt = processing.chat(tokenizer, image_tokens=3, template="plain").encode(caption, "prompt")
    assert prompt.tokens.tolist() == [image] * 3
    made = processing.chat(tokenizer, image_tokens=3, template="plain")
    assert made.end_id == ids[-1] and made.decode([*ids, *ids]) == "a red circle"


def test_caption_alone_for_the_contrastive_stage(tokenizer):
    caption = Example("c", (Message("user", "<image>"), Message("assistant", "a red circle")), ("a.png",))
    ids = tokenizer("a red circle")["input_ids"]
    assert (
        processing.chat(tokenizer, image_tokens=3, max_length=32).encode(caption, "contrastive").tokens.tolist() == ids
    )
    short = processing.chat(tokenizer, image_tokens=3, max_length=4).encode(caption, "contrastive")
    assert short.tokens.tolist() == ids[:3] and short.truncated


def test_a_row_brings_its_own_system_text(tokenizer):
    talk = Example("s", (Message("system", "Be brief."), Message("user", "Q"), Message("assistant", "A")))
    text = tokenizer.decode(processing.chat(tokenizer, image_tokens=1).encode(talk, "sft").tokens)
    assert text.startswith("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nQ") and "helpful" not in text


def test_the_image_token_may_be_spelled_as_the_placeholder(tokenizer):
    """LLaVA's own tokenizers call it <image>: questions may hold it, answers may not."""
    own = deepcopy(tokenizer)
    own.add_special_tokens({"additional_special_tokens": ["<image>"]})
    made, usual = processing.chat(own, image_tokens=3, image_token="<image>"), processing.chat(own, image_tokens=3)
    for kind, example in (("sft", TALK), ("prompt", TALK), ("preference", PAIR)):
        row, same = made.encode(example, kind), usual.encode(example, kind)
        assert (row.tokens == made.image_id).sum() == 3 and made.image_id != usual.image_id
        np.testing.assert_array_equal(np.where(row.tokens == made.image_id, usual.image_id, row.tokens), same.tokens)
        np.testing.assert_array_equal(row.image_slots, same.image_slots)
    for bad in (
        replace(PAIR, chosen="It is <image> red."),
        replace(PAIR, rejected="<image>"),
        Example("talk", (Message("user", "What?"), Message("assistant", "An <image>")), ("a.png",)),
    ):
        with pytest.raises(RowError, match="the text holds the control token '<image>'"):
            made.encode(bad, "preference" if bad.chosen else "sft")


def test_several_images_take_consecutive_slots(tokenizer):
    two = Example("m", (Message("user", "<image>\n<image>\nSame?"), Message("assistant", "no")), ("a.png", "b.png"))
    row = processing.chat(tokenizer, image_tokens=3, max_images=2).encode(two, "sft")
    slots = row.image_slots[row.image_slots >= 0]
    assert slots.tolist() == [0, 1, 2, 3, 4, 5]
    with pytest.raises(RowError, match=r"row 'm': 2 images, more than data\.images_per_row=1"):
        processing.chat(tokenizer, image_tokens=3).encode(two, "sft")


@pytest.mark.parametrize(
    ("example", "kind", "words"),
    [
        (
            Example("r1", (Message("user", "no place"), Message("assistant", "a")), ("a.png",)),
            "sft",
            "0 placeholders <image> but",
        ),
        (Example("r2", (Message("user", "<image>\nq"), Message("assistant", "a"))), "sft", "but 0 images"),
        (Example("r3", (Message("user", "q"), Message("assistant", " \n "))), "sft", "the answer is empty"),
        (Example("r4", (Message("user", "q"),), (), "", "b"), "preference", "the chosen answer is empty"),
        (Example("r5", (Message("user", "q"),), (), "a", " "), "preference", "the rejected answer is empty"),
        (Example("r6", (Message("user", "q"),), ()), "sft", "ends with a question"),
        (Example("r7", (Message("user", "q"),), (), "a"), "preference", "needs 'chosen' and 'rejected'"),
        (Example("r8", (Message("user", "<|im_end|>"), Message("assistant", "a"))), "sft", "control token"),
        (Example("r9", (Message("user", "a\ud800b"), Message("assistant", "a"))), "sft", "half of a character, at 1"),
    ],
)
def test_bad_rows_are_named_with_the_reason(tokenizer, example, kind, words):
    with pytest.raises(RowError, match=words) as error:
        processing.chat(tokenizer, image_tokens=2).encode(example, kind)
    assert error.value.row_id == example.id and f"row '{example.id}'" in str(error.value)


def test_long_text_is_cut_on_the_right_but_never_an_image(tokenizer):
    made = processing.chat(tokenizer, image_tokens=8, max_length=80)
    long = Example("l", (Message("user", "<image>\nQ"), Message("assistant", "red " * 200)), ("a.png",))
    row, whole = (
        made.encode(long, "sft"),
        processing.chat(tokenizer, image_tokens=8, max_length=5000).encode(long, "sft"),
    )
    assert row.truncated and len(row.tokens) == 80 and row.tokens.tolist() == whole.tokens[:80].tolist()
    assert row.targets.tolist() == whole.tokens[row.sources + 1].tolist() and (row.sources < 79).all()

    before = Message("user", "red " * 100)
    late = Example("late", (before, Message("assistant", "ok"), *long.messages), ("a.png",))
    with pytest.raises(RowError, match="row 'late'.*would remove part of an image"):
        made.encode(late, "sft")
    question = Example("q", (before, Message("assistant", "ok")))
    with pytest.raises(RowError, match="the answer begins after the limit of 80"):
        made.encode(question, "sft")
    with pytest.raises(RowError, match="the prompt has .* tokens, the limit is 80"):
        made.encode(Example("p", (before,)), "prompt")


def test_pairs_cut_the_longer_answer_first(tokenizer):
    message = (Message("user", "Q"),)
    p = len(processing.chat(tokenizer, image_tokens=1).encode(Example("p", message), "prompt").tokens)
    made = processing.chat(tokenizer, image_tokens=1, max_length=p + 40)
    row = made.encode(Example("p", message, (), "red blue" * 60, "red"), "preference")
    short = len(tokenizer("red")["input_ids"]) + 2
    assert len(row.tokens) == p + 40 and (row.branches == 2).sum() == short and row.truncated
    both = made.encode(Example("p", message, (), "red blue" * 60, "blue red" * 60), "preference")
    assert (both.branches == 1).sum() == (both.branches == 2).sum() == 20
    with pytest.raises(RowError, match="chosen and rejected are the same$"):
        made.encode(Example("p", message, (), "red", "red"), "preference")
    with pytest.raises(RowError, match="the same when truncated"):
        made.encode(Example("p", message, (), "red " * 60 + "a", "red " * 60 + "b"), "preference")
    made = processing.chat(tokenizer, image_tokens=1, max_length=p + 1)
    with pytest.raises(RowError, match="no answer fits"):
        made.encode(Example("p", message, (), "a", "b"), "preference")


def test_target_limit_cuts_too(tokenizer):
    message = (Message("user", "Q"), Message("assistant", "red blue " * 30))
    row = processing.chat(tokenizer, image_tokens=1, max_length=500, max_targets=10).encode(
        Example("t", message), "sft"
    )
    assert len(row.targets) == 10 and row.sources[-1] == len(row.tokens) - 2


def test_tokenizer_without_the_image_token_is_refused(tokenizer):
    with pytest.raises(UserError, match=r"'<\|photo\|>' is not one token.*tokenizer\.image_token"):
        processing.chat(tokenizer, image_tokens=1, image_token="<|photo|>")


def test_an_unknown_token_is_no_control_token():
    """A tokenizer that writes [UNK] for what it does not know gives one id for every control token."""
    words = Tokenizer(WordLevel({"[UNK]": 0, "a": 1, "\n": 2}, unk_token="[UNK]"))
    with pytest.raises(UserError, match=r"'<\|image_pad\|>' is unknown to it; add it as a special token"):
        processing.chat(PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]"), image_tokens=1)


CONVERSATIONS = {
    "question": [("user", "<image>\nWhat colour?"), ("assistant", "Red.")],
    "space": [
        ("user", "  <image>\nWhat  \n\n"),
        ("assistant", "\n\n  Red.\n"),
        ("user", "So?"),
        ("assistant", " Yes. "),
    ],
    "own system turn": [("system", " Be\nbrief. "), ("user", "How many?"), ("assistant", "Three")],
}


@pytest.fixture(scope="module")
def llama(tokenizer):
    found = deepcopy(tokenizer)
    found.add_tokens(list(DIALECTS["llama3"].tokens), special_tokens=True)
    return found


@pytest.mark.parametrize("turns", CONVERSATIONS.values(), ids=CONVERSATIONS)
def test_llama3_is_what_transformers_renders(llama, turns):
    """Text and ids of the row and of the prompt, which is the row's beginning; answers with their end are scored."""
    made = processing.chat(llama, image_tokens=3, system="", dialect="llama3")
    images = ("x.png",) * sum("<image>" in text for _, text in turns)
    example = Example("x", tuple(Message(*turn) for turn in turns), images)
    row, prompt = made.encode(example, "sft"), made.encode(example, "prompt")
    messages = [{"role": role, "content": text} for role, text in turns]
    for ids, given, asks in ((row.tokens, messages, False), (prompt.tokens, messages[:-1], True)):
        text = llama.apply_chat_template(
            given, chat_template=chat_templates.LLAMA3, tokenize=False, add_generation_prompt=asks
        )
        text = text.replace("<image>", "<|image_pad|>" * 3)
        assert llama.decode(ids) == text
        assert llama(text, add_special_tokens=False)["input_ids"] == ids.tolist()
    assert row.tokens[: len(prompt.tokens)].tolist() == prompt.tokens.tolist()
    answers = [text.strip() + "<|eot_id|>" for role, text in turns if role == "assistant"]
    assert llama.decode(row.targets) == "".join(answers)
    assert made.decode(row.tokens[len(prompt.tokens) :]) == turns[-1][1].strip()


def test_llama3_refuses_its_own_control_tokens_and_the_papers_mask(llama, tokenizer):
    made = processing.chat(llama, image_tokens=1, dialect="llama3")
    with pytest.raises(RowError, match=r"holds the control token '<\|eot_id\|>'"):
        made.encode(Example("x", (Message("user", "a<|eot_id|>b"), Message("assistant", "c"))), "sft")
    with pytest.raises(UserError, match=r"'<\|begin_of_text\|>' is not one token .*or tokenizer.chat to the model's"):
        processing.chat(tokenizer, image_tokens=1, dialect="llama3")
    content = {"tokenizer": {"chat": "llama3"}, "data": {"loss_mask": "pivot"}}
    config = configs.base()
    configs.merge(config, content)
    with pytest.raises(UserError, match=r"data.loss_mask: 'pivot' is the mask of the paper's ChatML rows"):
        configs.validate(config)


def test_golden_encodings_of_the_real_qwen_tokenizer(qwen, shared_data):
    """Texts by themselves, and the one with control tokens as a row of ours."""
    golden = json.loads((shared_data / "qwen2_5_vl_processor" / "golden_tokens.json").read_text())
    template = processing.chat(qwen, image_tokens=1).template
    plain = [case for case in golden if not case.get("special")]
    assert len(golden) == 22 and len(plain) == 21
    for case in plain:
        assert template.text(case["text"]) == case["ids"], case["text"]
        assert template.tokenizer.decode(case["ids"]) == unicodedata.normalize("NFC", case["text"])
    (special,) = [case for case in golden if case.get("special")]
    assert qwen(special["text"], add_special_tokens=False)["input_ids"] == special["ids"]
    question = Example("x", (Message("user", "<|vision_start|><image><|vision_end|>What is $x$?"),), ("x.png",))
    assert processing.chat(qwen, image_tokens=1).encode(question, "prompt").tokens.tolist() == special["ids"]


def answers_of(row):
    """Branch → the token ids of its answer."""
    return {int(branch): row.targets[row.target_branches == branch].tolist() for branch in set(row.target_branches)}


def test_a_row_of_answers_with_labels_has_a_branch_for_each(qwen):
    """The same prompt and answers as of a pair; a missing answer leaves its branch out."""
    chat = processing.chat(qwen)
    pair = chat.encode(PAIR, "preference")
    both = replace(PAIR, mismatched="yes")
    assert answers_of(chat.encode(both, "preference")) == answers_of(pair)
    row = chat.encode(both, "unpaired")
    assert answers_of(row) == answers_of(pair) | {3: [9693, E, NL]}
    good, bad = (chat.encode(replace(both, **{name: None}), "unpaired") for name in ("rejected", "chosen"))
    assert answers_of(good) == {1: answers_of(pair)[1], 3: [9693, E, NL]}
    assert answers_of(bad) == {2: answers_of(pair)[2], 3: [9693, E, NL]}
    n = int(np.sum(bad.branches == 0))
    assert bad.tokens[:n].tolist() == pair.tokens[:n].tolist()
    assert set(bad.sources[[0, len(answers_of(bad)[2])]]) == {n - 1}  # both begin after the prompt
    with pytest.raises(RowError, match="needs 'chosen' or 'rejected'"):
        chat.encode(replace(both, chosen=None, rejected=None), "unpaired")
    with pytest.raises(RowError, match="the answer to another prompt is empty"):
        chat.encode(replace(PAIR, mismatched=" "), "unpaired")


def test_of_three_answers_the_longest_are_truncated_first(qwen):
    long = replace(PAIR, chosen="red " * 30, rejected="blue " * 20, mismatched="yes")
    whole = processing.chat(qwen).encode(long, "unpaired")
    prompt = int(np.sum(whole.branches == 0))
    row = processing.chat(qwen, max_length=prompt + 23).encode(long, "unpaired")
    assert {branch: len(ids) for branch, ids in answers_of(row).items()} == {1: 10, 2: 10, 3: 3}
    assert row.truncated and len(row.tokens) == prompt + 23
    with pytest.raises(RowError, match="no answer fits"):
        processing.chat(qwen, max_length=prompt + 2).encode(long, "unpaired")


VISUAL = replace(PAIR, images=("a.png", "b.png"), rejected=None, images_rejected=1)


def test_a_visual_pair_is_its_prompt_and_answer_with_either_image(tokenizer):
    """Both sides whole, as branches without a shared prompt; the tokens are those of the row with one image."""
    chat = processing.chat(tokenizer, max_images=2)
    row, alone = chat.encode(VISUAL, "preference"), chat.encode(replace(PAIR, rejected="no"), "preference")
    one = alone.branches < 2
    n, scored = int(one.sum()), alone.target_branches == 1
    assert row.tokens.tolist() == alone.tokens[one].tolist() * 2
    assert row.positions.tolist() == alone.positions[one].tolist() * 2
    assert row.branches.tolist() == [1] * n + [2] * n
    assert row.targets.tolist() == alone.targets[scored].tolist() * 2
    assert row.sources.tolist() == [*alone.sources[scored], *(alone.sources[scored] + n)]
    assert row.target_branches.tolist() == [1] * scored.sum() + [2] * scored.sum()
    slots = alone.image_slots[one]
    assert row.image_slots.tolist() == [*slots, *np.where(slots < 0, -1, slots + 4)]
    assert row.images == ("a.png", "b.png")
    sft = chat.encode(VISUAL, "sft")  # the SFT arm reads the image that the answer belongs to
    assert sft.images == ("a.png",) and sft.targets.tolist() == alone.targets[scored].tolist()


@pytest.mark.parametrize(
    ("changes", "kind", "says"),
    [
        (dict(rejected="It is blue"), "preference", "a visual pair .* has one answer, 'chosen', and no 'rejected'"),
        (dict(images=("a.png",) * 3, images_rejected=2), "preference", "2 rejected images in place of 1 image"),
        (dict(images=("a.png",)), "preference", "1 placeholder <image> but 0 images"),
        ({}, "unpaired", "a visual pair .* is no answer with a label"),
    ],
)
def test_bad_visual_pairs(tokenizer, changes, kind, says):
    with pytest.raises(RowError, match=says):
        processing.chat(tokenizer, max_images=3).encode(replace(VISUAL, **changes), kind)
    with pytest.raises(RowError, match="2 images, more than data.images_per_row=1"):
        processing.chat(tokenizer).encode(VISUAL, "preference")


def test_a_visual_pair_is_truncated_alike_on_both_sides(tokenizer):
    long = replace(VISUAL, chosen="It is red. " * 30)
    row = processing.chat(tokenizer, max_images=2, max_length=120).encode(long, "preference")
    assert row.truncated and len(row.tokens) == 120 and len(set(np.bincount(row.target_branches)[1:])) == 1
