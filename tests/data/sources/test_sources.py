"""Every format gives the same common form, and says what is wrong with a bad row or file."""

from __future__ import annotations

import base64
import gzip
import io
import json
import sys

import numpy as np
import pytest
from PIL import Image

from pivot_jax.data.example import Message
from pivot_jax.data.sources import FORMATS, read, read_all
from pivot_jax.errors import RowError, UserError
from tests.data.conftest import llava_row, preference_row, write_jsonl


def turns(example) -> list[tuple[str, str]]:
    return [(message.role, message.content) for message in example.messages]


def human(text: str, answer: str = "a") -> list[dict]:
    return [{"from": "human", "value": text}, {"from": "gpt", "value": answer}]


def one(tmp_path, form: str, row: dict, **options):
    return read({"format": form, "path": write_jsonl(tmp_path / "rows.jsonl", [row]), **options})[0]


# ---- LLaVA


def test_an_image_may_be_in_the_row_as_a_data_url(tmp_path):
    url = f"data:image/png;base64,{base64.b64encode(b'png').decode()}"
    assert one(tmp_path, "llava", {**llava_row(0), "image": url}).images == (b"png",)


def test_llava_json_and_jsonl_are_the_same(tmp_path):
    rows = [llava_row(i) for i in range(3)]
    (tmp_path / "a.json").write_text(json.dumps(rows))
    lines = write_jsonl(tmp_path / "a.jsonl", rows)
    (tmp_path / "lines.json").write_text((tmp_path / "a.jsonl").read_text())
    (tmp_path / "marked.json").write_text(json.dumps(rows), encoding="utf-8-sig")  # with a byte-order mark
    by_list = read({"format": "llava", "path": str(tmp_path / "a.json")})
    for name in ("a.json", "a.jsonl", "lines.json"):
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress((tmp_path / name).read_bytes()))
    packed = [str(tmp_path / f"{name}.gz") for name in ("a.json", "a.jsonl", "lines.json")]
    for path in (lines, str(tmp_path / "lines.json"), str(tmp_path / "marked.json"), *packed):
        by_line = read({"format": "llava", "path": path})
        assert len(by_line) == 3 and [by_line[i] for i in range(3)] == [by_list[i] for i in range(3)]
    assert by_list[1].images == (str(tmp_path / "1.png"),) and by_list[1].id == "row1"


def test_zstandard(tmp_path):
    zstandard = pytest.importorskip("zstandard", reason="zstandard is not installed (extra test)")
    packed = zstandard.compress((json.dumps(llava_row(0)) + "\n").encode() * 3)
    (tmp_path / "rows.jsonl.zst").write_bytes(packed * 2)  # two frames
    assert len(read({"format": "llava", "path": str(tmp_path / "rows.jsonl.zst")})) == 6
    (tmp_path / "cut.jsonl.zst").write_bytes(packed[:9])
    (tmp_path / "text.jsonl.zst").write_bytes(b"{}")
    for name in ("cut.jsonl.zst", "text.jsonl.zst"):
        with pytest.raises(UserError, match=rf"{name}: not a whole .zst file"):
            read({"format": "llava", "path": str(tmp_path / name)})


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("What is it?\n<image>", "<image>\nWhat is it?"),
        ("Look at <image> here", "<image>\nLook at  here"),
        ("<image>\nWhat?", "<image>\nWhat?"),
        ("<image>", "<image>"),
        ("First <image> then <image>", "First <image> then <image>"),
    ],
)
def test_llava_moves_a_single_image_to_the_front(tmp_path, text, want):
    row = {"id": 1, "image": ["x.png"] * text.count("<image>"), "conversations": human(text)}
    example = one(tmp_path, "llava", row, image_root="/data")
    assert example.messages[0].content == want and example.id == "1"
    assert example.images == ("/data/x.png",) * text.count("<image>")


def test_llava_text_only_multi_turn_and_leading_answers(tmp_path):
    row = {"id": "t", "conversations": [{"from": "gpt", "value": "hello"}, *human("q1", "a1"), *human("q2", "a2")]}
    example = one(tmp_path, "llava", row)
    assert example.images == () and turns(example) == [
        ("user", "q1"), ("assistant", "a1"), ("user", "q2"), ("assistant", "a2"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"id": "x", "image": "a.png"}, "field 'conversations' is missing.*id, image"),
        ({"id": "x", "conversations": "hi"}, "'conversations' is str, not list"),
        ({"id": "x", "conversations": [{"from": "human"}]}, "field 'value' is missing"),
        ({"id": "x", "conversations": [{"from": "robot", "value": "a"}]}, "unknown speaker 'robot'"),
        ({"id": "x", "conversations": [{"from": "human", "value": "a"}]}, "does not end with an answer"),
        ({"id": "x", "image": 3, "conversations": human("<image>")}, "image reference 3"),
        (
            {"id": "x", "image": "https://a.b/c.png", "conversations": human("<image>")},
            "is a URL, and training reads no",
        ),
        ({"id": "x", "image": "data:image/png,abc", "conversations": human("<image>")}, "is no data:image/…;base64,"),
        ({"id": "x", "image": "data:image/png;base64,a", "conversations": human("<image>")}, "is not base64"),
    ],
)
def test_llava_missing_fields_name_row_and_field(tmp_path, row, words):
    with pytest.raises(RowError, match=words) as error:
        one(tmp_path, "llava", row)
    assert error.value.row_id == "x"


def test_malformed_json_line_is_one_bad_row(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", [llava_row(0), '{"id": "broken", ', "", llava_row(2), "[1, 2]"])
    source = read({"format": "llava", "path": path})
    assert len(source) == 4 and source[2].id == "row2"
    with pytest.raises(RowError, match=r"a\.jsonl:2': malformed JSON line"):
        source[1]
    with pytest.raises(RowError, match=r"a\.jsonl:5': the row is list"):
        source[3]


def test_a_file_that_cannot_be_read_says_so(tmp_path):
    (tmp_path / "half.jsonl.gz").write_bytes(gzip.compress(b'{"id": 1}' * 99)[:-9])
    (tmp_path / "plain.jsonl.gz").write_text('{"id": 1}')
    (tmp_path / "half.json").write_text('[{"id": 1},')
    (tmp_path / "one.json").write_text(json.dumps({"rows": [llava_row(0)]}, indent=1))
    (tmp_path / "not.parquet").write_bytes(b"PAR1 and no more")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "state.json").write_text("{}")
    (tmp_path / "empty").mkdir()
    for path, words in (
        ("gone.json", "no such file"),
        ("half.json", "not a JSON list"),
        ("half.jsonl.gz", "not a whole .gz file .*fetch it again"),
        ("plain.jsonl.gz", "not a whole .gz file"),
        ("one.json", "neither a JSON list of rows nor one JSON object a line"),
        ("not.parquet", "not a Parquet file"),
        ("folder", "cannot be read as a data set"),
        ("empty", "save_to_disk"),
        (".", "not a Parquet file"),
    ):
        with pytest.raises(UserError, match=words) as caught:
            read({"format": "llava", "path": str(tmp_path / path)})
        assert "\n" not in str(caught.value)


def test_rows_without_an_id_are_named_by_their_place(tmp_path):
    """In JSON Lines by the line, blank ones counted, as the malformed ones are."""
    rows = [{k: v for k, v in llava_row(i).items() if k != "id"} for i in range(2)]
    lines = write_jsonl(tmp_path / "a.jsonl", [rows[0], "", rows[1]])
    (tmp_path / "a.json").write_text(json.dumps(rows))
    assert [read({"format": "llava", "path": lines})[i].id for i in range(2)] == ["a.jsonl:1", "a.jsonl:3"]
    assert read({"format": "llava", "path": str(tmp_path / "a.json")})[1].id == "a.json[1]"


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [("seed", "a", "seed is 'a', not a whole number"), ("filter", 5, "filter is 5, not text"),
     ("sampling", 5, "sampling is 5, not text"), ("image_root", 5, "image_root is 5, not a folder's path")],
)  # fmt: skip
def test_wrong_types_in_a_source_are_named(tmp_path, key, value, words):
    path = write_jsonl(tmp_path / "a.jsonl", [llava_row(0)])
    with pytest.raises(UserError, match=f"format 'llava': {words}"):
        read({"format": "llava", "path": path, key: value})


@pytest.mark.parametrize(
    ("change", "words"),
    [({"hint": 5}, "field 'hint' is int"), ({"choices": ["x"] * 30}, "more than there are letters"),
     ({"answer": 2}, "names none of the 2 choices"), ({"answer": -1}, "names none")],
)  # fmt: skip
def test_odd_scienceqa_rows_are_bad_rows(tmp_path, change, words):
    row = {"id": "q", "question": "Q?", "choices": ["a", "b"], "answer": 0}
    with pytest.raises(RowError, match=words):
        one(tmp_path, "scienceqa", row | change)


def test_a_line_nested_too_deeply_is_one_bad_row(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", ["[" * 100_000, llava_row(1)])
    with pytest.raises(RowError, match="malformed JSON line"):
        read({"format": "llava", "path": path})[0]


def test_last_line_without_newline_counts(tmp_path):
    (tmp_path / "a.jsonl").write_text(json.dumps(llava_row(0)) + "\n" + json.dumps(llava_row(1)))
    source = read({"format": "llava", "path": str(tmp_path / "a.jsonl")})
    assert len(source) == 2 and source[1].id == "row1"


# ---- YAML


def test_llava_yaml_mixture(tmp_path):
    for name, count in (("a", 25), ("b", 10)):
        (tmp_path / f"{name}.json").write_text(json.dumps([llava_row(i, f"{name}{i}") for i in range(count)]))
    (tmp_path / "mix.yaml").write_text(
        "datasets:\n  - json_path: a.json\n    sampling_strategy: first:10%\n"
        "  - json_path: b.json\n    sampling_strategy: end:2\n  - json_path: b.json\n"
    )
    source = read({"format": "llava_yaml", "path": str(tmp_path / "mix.yaml"), "image_root": "/i"})
    answers = [source[i].messages[-1].content for i in range(len(source))]
    assert answers == ["a0", "a1", "a2", "b8", "b9", *(f"b{i}" for i in range(10))]  # ceil(2.5) = 3
    assert source[0].images == ("/i/0.png",)


@pytest.mark.parametrize(
    ("text", "words"),
    [("x: 1", "no list 'datasets'"), ("datasets: [{a: 1}]", "no 'json_path'"), ("a: [", "not YAML"),
     ("datasets: [{json_path: 5}]", "one that is not text"),
     ("datasets: [{json_path: gone.json}]", "entry 0: no file .*gone.json"),
     ("datasets: [{json_path: a.json, sampling_strategy: some:3}]", "entry 0: 'some:3' is not a sampling strategy")],
)  # fmt: skip
def test_llava_yaml_mistakes(tmp_path, text, words):
    (tmp_path / "a.json").write_text("[]")
    (tmp_path / "mix.yaml").write_text(text)
    with pytest.raises(UserError, match=words):
        read({"format": "llava_yaml", "path": str(tmp_path / "mix.yaml")})


# ---- preference formats


def mmpr_folder(tmp_path, **entry) -> str:
    """As published: paths in meta.json start with the folder's own name."""
    folder = tmp_path / "MMPR"
    (folder / "annotations").mkdir(parents=True)
    (folder / "images").mkdir()
    write_jsonl(folder / "annotations" / "a.jsonl", [preference_row(i) for i in range(5)])
    write_jsonl(folder / "annotations" / "b.jsonl", [preference_row(i, question="<image>\nb?") for i in range(2)])
    meta = {
        "a": {"root": "MMPR/images", "annotation": "MMPR/annotations/a.jsonl", "data_augment": False,
              "repeat_time": 1, "length": 5, **entry},
        "b": {"root": "MMPR/images", "annotation": "MMPR/annotations/b.jsonl", "repeat_time": 1, "length": 2},
    }  # fmt: skip
    (folder / "meta.json").write_text(json.dumps(meta))
    return str(folder / "meta.json")


def test_mmpr_meta(tmp_path):
    source = read({"format": "mmpr", "path": mmpr_folder(tmp_path)})
    assert len(source) == 7
    first, last = source[0], source[6]
    assert turns(first) == [("user", "<image>\nWhat color is circle 0?")]
    assert (first.chosen, first.rejected) == ("The circle is red.", "The circle is blue.")
    assert first.images == (str(tmp_path / "MMPR/images/0.png"),)
    assert turns(last) == [("user", "<image>\nb?")]  # a place that is there is not doubled


@pytest.mark.parametrize(("repeat", "want"), [(2, [0, 1, 2, 3, 4] * 2), (0.5, [0, 1]), (1.6, [0, 1, 2, 3, 4, 0, 1, 2])])
def test_mmpr_repeat_time(tmp_path, repeat, want):
    path = mmpr_folder(tmp_path, repeat_time=repeat)
    source = read({"format": "mmpr", "path": path, "subsets": ("a",)})
    assert [source[i].id for i in range(len(source))] == [f"row{i}" for i in want]


def test_mmpr_subsets_by_pattern(tmp_path):
    path = mmpr_folder(tmp_path)
    assert len(read({"format": "mmpr", "path": path, "subsets": ("[ab]",)})) == 7
    assert len(read({"format": "mmpr", "path": path, "subsets": ("a*", "a")})) == 5  # each once


def test_mmpr_mistakes(tmp_path):
    path = mmpr_folder(tmp_path, repeat_time=0)
    for options, words in (
        ({}, "subset 'a' has repeat_time 0"),
        ({"subsets": ("c",)}, r"no subset 'c' \(there are: a, b\)"),
        ({"root": str(tmp_path / "elsewhere")}, "set 'root'"),
    ):
        with pytest.raises(UserError, match=words):
            read({"format": "mmpr", "path": path, **options})
    row = preference_row(0)
    del row["rejected"]
    with pytest.raises(RowError, match="row 'row0': field 'rejected' is missing"):
        one(tmp_path, "mmpr", row)


def test_mmpr_several_images(tmp_path):
    row = {"image": ["a.png", "b.png"], "question": "Same?", "chosen": "no", "rejected": "yes"}
    example = one(tmp_path, "mmpr", row)
    assert example.messages[0].content == "<image>\n<image>\nSame?" and len(example.images) == 2
    assert example.id == "rows.jsonl:1"  # the line, as editors count


def test_next_dpo_and_numbered_images(tmp_path):
    row = {"id": 7, "image": "a.png", "prompt": "What?", "chosen": "c", "rejected": "r", "answer": "c"}
    example = one(tmp_path, "next_dpo", row)
    assert turns(example) == [("user", "<image>\nWhat?")] and example.extra == {"answer": "c"}
    numbered = {"id": 8, "image": "a.png", "question": "Which?\n<image1>", "chosen": "c", "rejected": "r"}
    assert one(tmp_path, "preference_pairs", numbered).messages[0].content == "<image>\nWhich?"
    # MATH-Vision: the marks point at parts of one stitched image
    parts = {**numbered, "question": "Is it like <image1> or like <image2>?"}
    assert one(tmp_path, "preference_pairs", parts).messages[0].content == "<image>\nIs it like  or like ?"
    text = {"prompt": "No image?", "chosen": "c", "rejected": "r"}
    assert turns(one(tmp_path, "next_dpo", text)) == [("user", "No image?")]  # no literal <image> without an image


# ---- TRL


USER = {"role": "user", "content": "What is it?"}
TYPED = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is it?"}]}


def answer(text: str) -> dict:
    return {"role": "assistant", "content": [{"type": "text", "text": text}]}


@pytest.mark.parametrize("user", [USER, TYPED])
@pytest.mark.parametrize("field", ["images", "image"])
def test_trl_messages(user, field):
    row = {"messages": [user, answer("a cat")], field: ["a.png"] if field == "images" else "a.png"}
    example = read({"format": "trl", "path": [row], "image_root": "/r"})[0]
    assert turns(example) == [("user", "<image>\nWhat is it?"), ("assistant", "a cat")]
    assert example.images == ("/r/a.png",)


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": [TYPED], "chosen": [answer("a cat")], "rejected": [answer("a dog")]},
        {"prompt": [USER], "chosen": "a cat", "rejected": "a dog"},
        {"prompt": "What is it?", "chosen": "a cat", "rejected": "a dog"},
        {"chosen": [USER, answer("a cat")], "rejected": [USER, answer("a dog")]},
        {"chosen": [TYPED, answer("a cat")], "rejected": [TYPED, answer("a dog")]},
    ],
)
def test_trl_preference_explicit_and_implicit(row):
    example = read({"format": "trl", "path": [{**row, "images": [b"\x89PNG.."]}]})[0]
    assert turns(example) == [("user", "<image>\nWhat is it?")]
    assert (example.chosen, example.rejected) == ("a cat", "a dog") and example.images == (b"\x89PNG..",)


def test_trl_implicit_prompt_equals_trls_own():
    from trl.data_utils import extract_prompt

    rows = [
        {"chosen": "The sky is blue.", "rejected": "The sky is green."},
        {"chosen": "Q: 1+1? A: 2", "rejected": "Q: 1+1? A: 3"},
        {"chosen": [USER, answer("x"), USER, answer("y")], "rejected": [USER, answer("x"), USER, answer("z")]},
    ]
    for row in rows:
        theirs, ours = extract_prompt(row), read({"format": "trl", "path": [row]})[0]
        if isinstance(row["chosen"], str):
            assert turns(ours) == [("user", theirs["prompt"])]
            assert (ours.chosen, ours.rejected) == (theirs["chosen"].strip(), theirs["rejected"].strip())
        else:
            assert len(ours.messages) == len(theirs["prompt"])
            assert ours.chosen == theirs["chosen"][0]["content"][0]["text"]


def test_trl_images_of_every_kind():
    image = Image.new("RGB", (3, 2), (9, 8, 7))
    data = io.BytesIO()
    image.save(data, "PNG")
    inline = {"role": "user", "content": [{"type": "image", "image": image}, {"type": "text", "text": "?"}]}
    rows = [
        {"messages": [USER, answer("a")], "images": [image]},
        {"messages": [USER, answer("a")], "images": [{"bytes": data.getvalue(), "path": None}]},
        {"messages": [USER, answer("a")], "images": [np.asarray(image)]},
        {"messages": [inline, answer("a")]},
    ]
    from pivot_jax.data.processing.images import load

    for row in rows:
        example = read({"format": "trl", "path": [row]})[0]
        assert np.asarray(load(example.images[0])).tolist() == np.asarray(image).tolist()


def test_trl_prompt_types_and_extra_columns():
    alone = read({"format": "trl", "path": [{"prompt": [USER], "images": ["a.png"], "solution": "42"}]})[0]
    assert turns(alone) == [("user", "<image>\nWhat is it?")] and alone.extra == {"solution": "42"}
    pair = read({"format": "trl", "path": [{"prompt": "Q", "completion": "A"}]})[0]
    assert turns(pair) == [("user", "Q"), ("assistant", "A")]


@pytest.mark.parametrize("completion", ["A", [answer("A")]])
def test_trl_answers_with_a_label(completion):
    rows = [{"prompt": [USER], "completion": completion, "label": label, "images": ["a.png"]} for label in (True, 0)]
    good, bad = read({"format": "trl", "path": rows})
    assert (good.chosen, good.rejected, bad.chosen, bad.rejected) == ("A", None, None, "A")
    assert turns(good) == [("user", "<image>\nWhat is it?")] and good.extra == {} and len(good.images) == 1
    other = read({"format": "trl", "path": [{"prompt": "Q", "label": "cat"}]})[0]  # of a prompt for online RL
    assert other.extra == {"label": "cat"} and other.chosen is None


def test_trl_visual_pairs():
    row = {"prompt": [USER], "chosen": [answer("A")], "images": ["a.png"], "image_rejected": "b.png"}
    pair = read({"format": "trl", "path": [row]})[0]
    assert (pair.chosen, pair.rejected, pair.images_rejected, pair.extra) == ("A", None, 1, {})
    assert turns(pair) == [("user", "<image>\nWhat is it?")] and pair.images == ("a.png", "b.png")


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (
            {"prompt": "q", "chosen": "a", "rejected": "b", "image_rejected": "c.png"},
            "write the visual pair as a row of",
        ),
        ({"prompt": "q", "completion": "a", "label": "yes"}, "label 'yes' is not true or false"),
        ({"prompt": "q", "completion": [USER, answer("a")], "label": True}, "'completion' must add exactly one"),
        ({"text": "q"}, "field 'prompt' is missing"),
        ({"prompt": "q", "chosen": "a"}, "field 'rejected' is missing"),
        ({"chosen": "a", "rejected": [answer("b")]}, "both be text or both be conversations"),
        ({"prompt": [USER], "chosen": [USER, answer("a")], "rejected": [answer("b")]}, "exactly one assistant turn"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "role 'tool'"),
        ({"messages": [{"role": "user", "content": [{"type": "video"}]}]}, "'video', not text or image"),
        ({"messages": [{"role": "user"}]}, "field 'content' is missing"),
    ],
)
def test_trl_bad_rows(row, words):
    with pytest.raises(RowError, match=words):
        read({"format": "trl", "path": [{"id": "bad", **row}]})[0]


def test_rows_from_parquet_and_saved_datasets(tmp_path):
    datasets = pytest.importorskip("datasets", reason="comes with trl, which only the test extra installs")
    rows = [{"id": str(i), "messages": [USER, {"role": "assistant", "content": f"a{i}"}]} for i in range(3)]
    data = datasets.Dataset.from_list(rows)
    data.to_parquet(str(tmp_path / "a.parquet"))
    data.save_to_disk(str(tmp_path / "saved"))
    for name in ("a.parquet", "saved"):
        source = read({"format": "trl", "path": str(tmp_path / name)})
        assert len(source) == 3 and turns(source[2])[1] == ("assistant", "a2")


# ---- question-answer files


def test_scienceqa_is_cambrians_prompt(tmp_path):
    row = {"id": "1", "image": "a.png", "question": "Which?", "choices": ["x", "y"], "hint": "Look.", "answer": "B"}
    example = one(tmp_path, "scienceqa", row)
    tail = "\nPlease answer directly with only the letter of the correct option and nothing else."
    assert turns(example) == [("user", "<image>\nLook. Which?\nA. x\nB. y" + tail), ("assistant", "B")]
    assert example.extra["choices"] == ["x", "y"] and example.extra["answer"] == "B"
    by_index = one(tmp_path, "scienceqa", {**row, "hint": "", "answer": 0})
    assert by_index.messages[0].content.startswith("<image>\nWhich?\nA. x") and by_index.extra["answer"] == "A"
    with pytest.raises(RowError, match="answer 'C' names none of the 2 choices"):
        one(tmp_path, "scienceqa", {**row, "answer": "C"})


def test_qa_names_its_fields_in_the_config(tmp_path):
    row = {"key": "k1", "pic": ["a.png"], "ask": "Sum?", "gold": 5, "level": 2}
    keys = {"id_key": "key", "image_key": "pic", "question_key": "ask", "answer_key": "gold"}
    example = one(tmp_path, "qa", row, suffix="\nShort.", **keys)
    assert turns(example) == [("user", "<image>\nSum?\nShort."), ("assistant", "5")]
    assert example.id == "k1" and example.extra["level"] == 2
    assert turns(one(tmp_path, "qa", {"question": "No answer?"})) == [("user", "No answer?")]


# ---- TFDS


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A data set of its own kind: columns that no reader of ours knows, prepared without TensorFlow."""
    import tensorflow_datasets as library

    class Toy(library.core.GeneratorBasedBuilder):
        VERSION = library.core.Version("1.0.0")

        def _info(self):
            text = library.features.Text()
            features = {"photo": library.features.Image(shape=(4, 4, 3)), "ask": text, "reply": text, "worse": text,
                        "level": np.int64, "turns": text}  # fmt: skip
            return library.core.DatasetInfo(builder=self, features=library.features.FeaturesDict(features))

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples(8), "test": self._generate_examples(3)}

        def _generate_examples(self, count):
            for i in range(count):
                data = io.BytesIO()
                Image.fromarray(np.full((4, 4, 3), i, np.uint8)).save(data, "PNG")
                data.seek(0)
                talk = json.dumps(human("<image>\nhi", f"talk{i}")) if i % 2 else ""
                yield (
                    i,
                    {"photo": data, "ask": f"q{i}", "reply": f"a{i}", "worse": f"w{i}", "level": i, "turns": talk},
                )

    library.disable_progress_bar()
    builder = Toy(data_dir=str(tmp_path_factory.mktemp("tfds")), file_format="array_record")
    builder.download_and_prepare()
    return builder


def test_tfds_by_folder_and_field_names(prepared):
    fields = {"image": "photo", "prompt": "ask", "answer": "reply"}
    source = read({"format": "tfds", "path": str(prepared.data_dir), "split": "train", "fields": fields})
    assert "tensorflow" not in sys.modules
    assert len(source) == 8
    by_level = {source[i].extra["level"]: source[i] for i in range(8)}
    example = by_level[3]
    assert turns(example) == [("user", "<image>\nq3"), ("assistant", "a3")]
    with Image.open(io.BytesIO(example.images[0])) as image:  # still encoded
        assert np.asarray(image).tolist() == np.full((4, 4, 3), 3).tolist()
    assert example.extra["worse"] == "w3" and example.extra["answer"] == "a3"


def test_tfds_preference_conversations_and_slices(prepared):
    where = {"format": "tfds", "path": str(prepared.data_dir)}
    pair = read({**where, "split": "train[:50%]",
                 "fields": {"image": "photo", "prompt": "ask", "chosen": "reply", "rejected": "worse"}})  # fmt: skip
    level = pair[0].extra["level"]
    assert len(pair) == 4 and (pair[0].chosen, pair[0].rejected) == (f"a{level}", f"w{level}")
    talks = read({**where, "split": "test", "fields": {"image": "photo", "conversations": "turns"}})
    place = {talks.data[i]["level"]: i for i in range(3)}  # TFDS shuffles when it writes
    assert turns(talks[place[1]]) == [("user", "<image>\nhi"), ("assistant", "talk1")]
    with pytest.raises(RowError, match="name the columns in 'fields'"):
        talks[place[0]]


def test_tfds_mistakes(prepared):
    where = {"format": "tfds", "path": str(prepared.data_dir)}
    for options, words in (
        ({"split": "valid"}, "valid"),
        ({"fields": {"prompt": "nothing"}}, "no column 'nothing'.*photo"),
        ({"fields": {"pprompt": "ask"}}, "role 'pprompt'"),
        ({"path": "/not/there"}, "/not/there"),
        ({"path": "", "name": "no_such_set"}, "no_such_set"),
        ({"name": "both"}, "either 'path'"),
    ):
        with pytest.raises(UserError, match=words):
            read({**where, **options})


def test_scenes_are_read_as_any_tfds_set(tmp_path):
    from pivot_jax.data.scenes import World, prepare

    folder = prepare(tmp_path, World(), sizes={"vqa": 3, "preference": 3, "caption": 2, "test": 2})
    vqa = read({"format": "tfds", "path": folder, "split": "vqa"})[0]
    assert vqa.messages[0].content.startswith("<image>\n") and vqa.messages[-1].role == "assistant"
    pair = read({"format": "tfds", "path": folder, "split": "preference"})[0]
    assert pair.chosen != pair.rejected and pair.messages[-1].role == "user" and pair.id.startswith("preference-")
    assert isinstance(pair.extra["things"], list)
    test = read({"format": "tfds", "path": folder, "split": "test"})[0]
    assert test.messages[-1] == Message("assistant", test.extra["answer"])
    assert test.extra["answer"] in test.extra["choices"]


# ---- the config entry


def test_config_entry_mistakes(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", [llava_row(0)])
    for entry, words in (
        ({"format": "lava", "path": path}, "format 'lava' is not known.*llava_yaml"),
        ({"format": "llava", "path": path, "root": "x"}, "no key 'root'.*image_root"),
        ({"format": "llava"}, "missing 1 required"),
        ({"format": "llava", "path": path, "sampling": "first"}, "'first' is not a sampling strategy"),
        ({"format": "llava", "path": path, "filter": "short"}, "filter: 'short' is none of"),
    ):
        with pytest.raises(UserError, match=words):
            read(entry)
    with pytest.raises(UserError, match="empty"):
        read_all(())
    assert set(FORMATS) >= {"llava", "llava_yaml", "mmpr", "next_dpo", "trl", "tfds", "scienceqa", "preference_pairs"}


def test_sources_are_joined_in_order(tmp_path):
    a = {"format": "llava", "path": write_jsonl(tmp_path / "a.jsonl", [llava_row(i, f"a{i}") for i in range(3)])}
    b = {"format": "llava", "path": write_jsonl(tmp_path / "b.jsonl", [llava_row(i, f"b{i}") for i in range(2)])}
    joined = read_all((a, b))
    assert [joined[i].messages[-1].content for i in range(len(joined))] == ["a0", "a1", "a2", "b0", "b1"]
    with pytest.raises(IndexError):
        joined[5]
