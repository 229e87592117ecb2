"""Prompts for online RL: formats that end with a question, and prompts made from the formats of the other stages."""

from __future__ import annotations

import io
import json

import datasets
import numpy as np
import pytest
from PIL import Image

from pivot_jax.data.example import Example, Message
from pivot_jax.data.processing.images import load
from pivot_jax.data.sources import read, read_all
from pivot_jax.data.sources.maye import CHAT_SUFFIX
from pivot_jax.data.sources.prompts import prompt_example, prompts
from pivot_jax.data.sources.vlm_r1 import boxes_of
from pivot_jax.errors import RowError, UserError
from tests.data.conftest import llava_row, preference_row, write_jsonl


def asked(example: Example) -> str:
    """The text of a prompt of one turn."""
    (message,) = example.messages
    assert message.role == "user" and example.chosen is None and example.rejected is None
    return message.content


def one(tmp_path, entry: dict, row: dict) -> Example:
    path = write_jsonl(tmp_path / "rows.jsonl", [row])
    return read({**entry, "path": path})[0]


def encoded(color: tuple[int, int, int]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((8, 6, 3), color, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


# ---- MAYE


MAYE = {"id": 7, "image": "images/7.png", "question": "<image>Find x.", "answer": "20", "solution": "\\boxed{20}"}


def test_maye(tmp_path):
    """The record of the paper's README; the chat prompt of its released runs ends the question."""
    example = one(tmp_path, {"format": "maye"}, {**MAYE, "source": "geometry3k"})
    assert asked(example) == "<image>\nFind x." + CHAT_SUFFIX and CHAT_SUFFIX.endswith("format \\boxed{}.")
    assert example.id == "7" and example.images == (str(tmp_path / "images/7.png"),)
    assert example.extra == {"answer": "20", "solution": "\\boxed{20}", "source": "geometry3k"}
    assert asked(one(tmp_path, {"format": "maye", "suffix": ""}, MAYE)) == "<image>\nFind x."
    text_only = {key: value for key, value in MAYE.items() if key != "image"} | {"question": "1 + 1?"}
    assert asked(one(tmp_path, {"format": "maye", "suffix": ""}, text_only)) == "1 + 1?"


def test_maye_without_anything_to_judge_by(tmp_path):
    with pytest.raises(RowError, match="'solution' and 'answer' are both missing"):
        one(tmp_path, {"format": "maye"}, {"id": "1", "question": "?"})
    with pytest.raises(RowError, match="field 'question' is missing"):
        one(tmp_path, {"format": "maye"}, {"id": "1", "solution": "2"})


# ---- TRL, EasyR1 and verl in Parquet and datasets folders


def saved(tmp_path, rows: list[dict]) -> list[str]:
    """The rows as a Parquet file, a data set, a data set of splits, and a folder of Parquet shards."""
    data = datasets.Dataset.from_list(rows)
    data.to_parquet(str(tmp_path / "rows.parquet"))
    data.save_to_disk(str(tmp_path / "saved"))
    datasets.DatasetDict({"train": data, "test": data.select([0])}).save_to_disk(str(tmp_path / "splits"))
    shards = tmp_path / "hub" / "data"
    shards.mkdir(parents=True)
    for i in range(2):
        data.shard(2, i).to_parquet(str(shards / f"train-0000{i}-of-00002.parquet"))
    data.select([0]).to_parquet(str(shards / "test-00000-of-00001.parquet"))
    return [str(tmp_path / name) for name in ("rows.parquet", "saved", "splits", "hub")]


def every_way(tmp_path, rows: list[dict], **entry) -> list[list[Example]]:
    out = []
    for path in saved(tmp_path, rows):
        split = {"split": "train"} if path.endswith(("splits", "hub")) else {}
        source = read({**entry, **split, "path": path})
        out.append([source[i] for i in range(len(source))])
    return out


def test_trl_prompt_only_conversational(tmp_path):
    image = {"bytes": encoded((200, 0, 0)), "path": None}
    rows = [
        {"prompt": [{"role": "user", "content": f"What is it {i}?"}], "images": [image], "solution": str(i)}
        for i in range(3)
    ]
    for examples in every_way(tmp_path, rows, format="trl"):
        assert [asked(example) for example in examples] == [f"<image>\nWhat is it {i}?" for i in range(3)]
        assert [example.extra for example in examples] == [{"solution": str(i)} for i in range(3)]
        assert np.asarray(load(examples[0].images[0])).shape == (8, 6, 3)


def test_trl_prompt_only_plain_and_typed_parts(tmp_path):
    for examples in every_way(tmp_path, [{"prompt": "1 + 1?", "answer": 2}] * 2, format="trl"):
        assert asked(examples[1]) == "1 + 1?" and examples[1].extra == {"answer": 2}
    parts = [{"type": "image", "text": None}, {"type": "text", "text": "Where?"}]
    row = {"prompt": [{"role": "user", "content": parts}], "image": "a.png"}
    example = one(tmp_path, {"format": "trl"}, row)
    assert asked(example) == "<image>\nWhere?" and example.images == (str(tmp_path / "a.png"),)


def test_easyr1(tmp_path):
    image = {"bytes": encoded((0, 90, 0)), "path": None}
    rows = [{"images": [image, image], "problem": f"<image><image>Find {i}.", "answer": str(i)} for i in range(3)]
    for examples in every_way(tmp_path, rows, format="easyr1"):
        assert [asked(example) for example in examples] == [f"<image><image>Find {i}." for i in range(3)]
        assert [example.extra["answer"] for example in examples] == ["0", "1", "2"]
        assert len({example.id for example in examples}) == 3 and len(examples[0].images) == 2


def test_easyr1_prompt_template_and_keys(tmp_path):
    (tmp_path / "math.jinja").write_text("{{ content | trim }} Think first.\n")
    row = {"id": "a", "photo": "a.png", "q": " Find x. ", "gold": 3, "level": "hard"}
    keys = {"problem_key": "q", "answer_key": "gold", "image_key": "photo"}
    example = one(tmp_path, {"format": "easyr1", "format_prompt": str(tmp_path / "math.jinja"), **keys}, row)
    assert asked(example) == "<image>\nFind x. Think first." and example.extra == {"answer": 3, "level": "hard"}
    for text, words in (("Think first.", "lacks the problem"), ("{{ content", "cannot be read as a Jinja template")):
        (tmp_path / "math.jinja").write_text(text)
        with pytest.raises(UserError, match=words):
            one(tmp_path, {"format": "easyr1", "format_prompt": str(tmp_path / "math.jinja")}, row)
    with pytest.raises(UserError, match="gone.jinja cannot be read"):
        one(tmp_path, {"format": "easyr1", "format_prompt": str(tmp_path / "gone.jinja")}, row)


def verl_row(i: int, **more) -> dict:
    return {
        "data_source": "hiyouga/geometry3k",
        "prompt": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": f"<image>Find {i}."}],
        "images": [{"bytes": encoded((0, 0, i)), "path": None}],
        "ability": "math",
        "reward_model": {"style": "rule", "ground_truth": str(i)},
        "extra_info": {"split": "train", "index": i, "answer": str(i), "question": f"<image>Find {i}."},
        **more,
    }


def test_verl(tmp_path):
    for examples in every_way(tmp_path, [verl_row(i) for i in range(3)], format="verl"):
        last = examples[2]
        assert last.messages == (Message("system", "Be brief."), Message("user", "<image>Find 2."))
        assert last.extra["answer"] == last.extra["ground_truth"] == "2" and last.extra["ability"] == "math"
        assert last.extra["data_source"] == "hiyouga/geometry3k" and last.extra["extra_info"]["index"] == 2
        assert np.asarray(load(last.images[0]))[0, 0].tolist() == [0, 0, 2]


@pytest.mark.parametrize(
    ("more", "words"),
    [({"videos": ["a.mp4"]}, "'videos' is not empty"), ({"reward_model": "rule"}, "'reward_model' is str"),
     ({"prompt": None}, "'prompt' is missing")],
)  # fmt: skip
def test_verl_bad_rows(more, words):
    with pytest.raises(RowError, match=words):
        read({"format": "verl", "path": [verl_row(0, **more)]})[0]


def test_verl_files_and_rows_without_a_judge():
    row = verl_row(0, images=[{"image": "file:///data/a.png"}], reward_model=None, videos=None)
    example = read({"format": "verl", "path": [row]})[0]
    assert example.images == ("/data/a.png",) and "answer" not in example.extra


def test_folders_of_several_splits(tmp_path):
    saved(tmp_path, [{"prompt": f"{i}"} for i in range(3)])
    for name in ("splits", "hub"):
        entry = {"format": "trl", "path": str(tmp_path / name)}
        assert len(read({**entry, "split": "test"})) == 1
        with pytest.raises(UserError, match="holds the splits test, train; name one as 'split'"):
            read(entry)
        with pytest.raises(UserError, match=r"no split 'trian' \(there are: test, train\); did you mean 'train'"):
            read({**entry, "split": "trian"})
    with pytest.raises(UserError, match="one data set without splits"):
        read({"format": "trl", "path": str(tmp_path / "saved"), "split": "train"})
    with pytest.raises(UserError, match="split 'train' of something that is not a folder"):
        read({"format": "trl", "path": str(tmp_path / "rows.parquet"), "split": "train"})
    converted = tmp_path / "converted" / "validation"  # refs/convert/parquet: a folder per split
    converted.mkdir(parents=True)
    datasets.Dataset.from_list([{"prompt": "q"}]).to_parquet(str(converted / "0000.parquet"))
    assert len(read({"format": "trl", "path": str(tmp_path / "converted"), "split": "validation"})) == 1


def test_shards_of_different_columns(tmp_path):
    for i, row in enumerate(({"prompt": "q"}, {"prompt": 3})):
        datasets.Dataset.from_list([row]).to_parquet(str(tmp_path / f"train-{i}.parquet"))
    with pytest.raises(UserError, match="different columns"):
        read({"format": "trl", "path": str(tmp_path)})


# ---- VLM-R1


def vlm_r1_row(answer, question: str = "<image>How many?") -> dict:
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    return {"id": 1, "image": "a.png", "conversations": turns, "accu_reward_method": "math"}


@pytest.mark.parametrize(
    ("value", "answer", "boxes"),
    [
        ("0", "0", None),
        ("<answer> 3 </answer>", "3", None),
        (0.5, "0.5", None),
        ([1, 2, 30.5, 40], "[1, 2, 30.5, 40]", [[1, 2, 30.5, 40]]),
        ("[1, 2, 30, 40]", "[1, 2, 30, 40]", [[1, 2, 30, 40]]),
        ([[1, 2, 3, 4], [5, 6, 7, 8]], "[[1, 2, 3, 4], [5, 6, 7, 8]]", [[1, 2, 3, 4], [5, 6, 7, 8]]),
        ("[3, 4, 3, 9]", "[3, 4, 3, 9]", None),  # encloses nothing
    ],
)
def test_vlm_r1(tmp_path, value, answer, boxes):
    example = one(tmp_path, {"format": "vlm_r1", "suffix": " Answer briefly."}, vlm_r1_row(value))
    assert asked(example) == "<image>\nHow many? Answer briefly." and example.images == (str(tmp_path / "a.png"),)
    assert example.extra["answer"] == example.extra["solution"] == answer
    assert example.extra.get("boxes") == boxes and example.extra["accu_reward_method"] == "math"


def test_vlm_r1_detection(tmp_path):
    text = '```json\n[{"bbox_2d": [1, 2, 3, 4], "label": "cat"}, {"bbox_2d": [0, 0, 9, 9], "label": "dog"}]\n```'
    row = {**vlm_r1_row(text, "Compare.<image>\n<image>"), "image": ["a.png", "b.png"]}
    example = one(tmp_path, {"format": "vlm_r1"}, row)
    assert asked(example) == "<image>\n<image>\nCompare." and len(example.images) == 2
    assert example.extra["boxes"] == [[1, 2, 3, 4], [0, 0, 9, 9]] and example.extra["answer"] == text
    assert boxes_of([[1, 2, 3, 4], "cat"]) == [] and boxes_of("[" * 100_000) == []
    assert boxes_of([True, 0, 2, 2]) == [] and boxes_of([0, 0, float("inf"), 2]) == []


def test_vlm_r1_answered(tmp_path):
    example = one(tmp_path, {"format": "vlm_r1", "answered": True}, vlm_r1_row([1, 2, 30, 40]))
    assert [turn.role for turn in example.messages] == ["user", "assistant"]
    assert example.messages[1].content == "[1, 2, 30, 40]" and example.extra["boxes"] == [[1, 2, 30, 40]]


def test_vlm_r1_bad_rows(tmp_path):
    for row, words in (
        ({"id": "1", "conversations": [{"from": "human", "value": "?"}]}, "it holds 1 turn$"),
        (vlm_r1_row(None), "the answer's 'value' is missing"),
    ):
        with pytest.raises(RowError, match=words):
            one(tmp_path, {"format": "vlm_r1"}, row)


# ---- prompts from the formats of other stages


def test_prompts_from_conversations_and_pairs(tmp_path):
    talk = {"format": "llava", "path": write_jsonl(tmp_path / "a.jsonl", [llava_row(0, answer="red")])}
    pair = {"format": "mmpr", "path": write_jsonl(tmp_path / "b.jsonl", [preference_row(0)])}
    source = prompts(read_all((talk, pair)))
    assert [asked(source[i]) for i in range(len(source))] == ["<image>\nWhat color is circle 0?"] * 2
    assert source[0].extra == {"answer": "red"}
    pair_extra = {"answer": "The circle is red.", "chosen": "The circle is red.", "rejected": "The circle is blue."}
    assert source[1].extra == pair_extra
    assert source.name == "a.jsonl+b.jsonl" and source.fingerprint != read_all((talk, pair)).fingerprint


def test_an_answer_of_the_row_itself_is_kept():
    """A gold answer beats the text that a stage was to be trained on; an earlier turn's answer stays in the prompt."""
    turns = tuple(Message(*turn) for turn in (("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "So 4")))
    found = prompt_example(Example("1", turns, extra={"answer": "4"}))
    assert found.messages == turns[:3] and found.extra == {"answer": "4"}
    assert prompt_example(Example("1", turns, extra={"answer": None})).extra == {"answer": "So 4"}


@pytest.mark.parametrize("turns", [(), (("system", "s"),), (("user", "a"), ("assistant", "b"), ("assistant", "c"))])
def test_rows_without_a_question(turns):
    with pytest.raises(RowError, match="a prompt ends with a user turn"):
        prompt_example(Example("1", tuple(Message(*turn) for turn in turns)))


def test_choices_of_question_files(tmp_path):
    """Options follow the question; those that are only letters name parts of the image."""
    entry = {"format": "qa", "choices_key": "options", "suffix": " Answer with a letter."}
    row = {"id": 1, "question": "Which?", "options": [3.5, "y"], "answer": "B"}
    example = one(tmp_path, entry, row)
    assert example.messages[0].content == "Which?\nA. 3.5\nB. y Answer with a letter."
    assert example.extra["choices"] == ["3.5", "y"] and example.extra["answer"] == "B"
    letters = one(tmp_path, entry, {**row, "options": ["A", "B"]})
    assert letters.messages[0].content == "Which? Answer with a letter." and letters.extra["choices"] == ["A", "B"]
    free = one(tmp_path, entry, {**row, "options": None})
    assert free.messages[0].content == "Which? Answer with a letter." and free.extra["choices"] == []
    with pytest.raises(RowError, match="27 choices are more than there are letters"):
        one(tmp_path, entry, {**row, "options": list(range(27))})


def test_the_named_answer_is_the_answer(tmp_path):
    row = {"id": 1, "question": "Which?", "answer": "B", "answer_value": 2.5}
    found = prompt_example(one(tmp_path, {"format": "qa", "answer_key": "answer_value"}, row))
    assert found.extra["answer"] == 2.5


# ---- the config entry


def test_unknown_formats_and_keys_name_the_nearest():
    for entry, words in (
        ({"format": "mayo"}, "format 'mayo' is not known.*did you mean 'maye'"),
        ({"format": "maye", "path": [], "sufix": ""}, "no key 'sufix'.*did you mean 'suffix'"),
        ({"format": "scenes_tasks", "taks": ()}, "no key 'taks'.*did you mean 'tasks'"),
    ):
        with pytest.raises(UserError, match=words):
            read(entry)


def test_an_entry_is_plain_json():
    """A run's config.json keeps the entry: tuples come back as lists."""
    entry = {"format": "scenes_tasks", "tasks": (("count", 1.0),), "world": {"colors": ("red", "green")}, "seed": 3}
    assert read(json.loads(json.dumps(entry))).fingerprint == read(entry).fingerprint
