"""Pages of the data of every kind of training, small: their numbers, their texts, and what they must not do."""

from __future__ import annotations

import base64
import csv
import io
import json
import re

import jax
import numpy as np
import pytest
from PIL import Image

import pivot_jax as pj
from pivot_jax import config as configs
from pivot_jax.errors import UserError
from tests.report.reader import read
from tests.tiny import data_pages
from tests.tiny.data_pages import HOSTILE, config, conversation, pair

LONG = "It is red, blue or green. " * 30


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return data_pages.world(tmp_path_factory.mktemp("data"))


def page_of(config, out, **options):
    """The page's text, its reader and its numbers."""
    path = pj.data_page(config, out, **options)
    assert sorted(one.name for one in out.iterdir()) == [
        ".pivot-jax.json", "bad_rows.csv", "data.html", "data.json", "rows.csv"
    ]  # fmt: skip
    text = path.read_text()
    reader = read(text)
    assert all(source.startswith("data:image/") for source in reader.sources)
    assert all(link.startswith("#") for link in reader.links)
    return text, reader, json.loads((out / "data.json").read_text())


def table(path):
    return list(csv.DictReader(path.open(newline="")))


def warned(numbers, words):
    return [one for one in numbers["warnings"] if words in one["text"]]


def test_conversations(folder, tmp_path):
    """Twenty good rows, one of them twice, one under a copy of its image, one truncated; two bad ones."""
    rows = [conversation(i, question=f"How many, {i}?") for i in range(17)]
    rows += [rows[3], {**rows[0], "image": "copy.png"}, conversation(20, LONG)]
    rows += [conversation(21, image="gone.png"), '{"id": "half']
    cfg = config(folder, rows, data__buckets=((48, 16), (96, 64)))
    text, _, numbers = page_of(cfg, tmp_path / "out", rows=3, seed=5)
    assert (numbers["rows"], numbers["bad_rows"], numbers["truncated_rows"]) == (20, 2, 1)
    # The first 17 rows use all 12 images; the copy is the same image as row 0's.
    assert (numbers["images"], numbers["different_images"]) == (20, 12)
    assert numbers["steps_per_epoch"] == 5 and numbers["kind"] == "sft"
    found = table(tmp_path / "out" / "rows.csv")
    assert len(found) == 20 and found[3]["id"] == "row3" and found[3]["row_of_file"] == "4"
    assert [row["same_as"] for row in found if row["same_as"]] == ["row3", "row0"]
    assert found[-1]["truncated"] == "1" and int(found[-1]["whole_tokens"]) > int(found[-1]["tokens"])
    assert sum(int(row["tokens"]) for row in found) == numbers["lengths"]["tokens"]["total"]
    assert all(row["image_tokens"] == "4" for row in found)
    bad = table(tmp_path / "out" / "bad_rows.csv")
    assert [row["row_of_file"] for row in bad] == ["21", "22"] and "gone.png does not exist" in bad[0]["reason"]
    assert "malformed JSON line" in bad[1]["reason"] and "gone.png does not exist" in text
    (stops,) = warned(numbers, "Training does not start")
    assert stops["level"] == "error" and "9.1 % of the rows are bad" in stops["text"]
    assert warned(numbers, "an earlier one: 2 of 20 (10.0 %)") and warned(numbers, "5.0 % of the rows (1)")
    assert numbers["duplicates"]["prompts_with_different_answers"] == 0
    assert numbers["duplicates"]["images_in_several_rows"] == 6  # of rows 0 to 4 and of row 8, which row 20 has too
    epoch = numbers["epoch"]
    assert epoch["positions"] == sum(use["sequences"] * use["tokens"] for use in epoch["buckets"])
    assert sum(use["needing"] for use in epoch["buckets"]) == 20 == sum(use["rows"] for use in epoch["buckets"])
    assert "tiny &lt;b&gt;" in text and "before truncation" in text and "&lt;image&gt; × 4" in text


def test_the_loss_mask_is_in_colour_and_ids_are_titles(folder, tmp_path):
    text, _, _ = page_of(config(folder, [conversation(i) for i in range(4)]), tmp_path / "out", rows=1)
    words = re.findall(r'<i class="([^"]*)" title="([\d, ]+)">(.*?)</i>', text, re.DOTALL)
    scored = [(word, ids) for marks, ids, word in words if "y" in marks.split()]
    answers = "".join(word for word, _ in scored)
    assert answers.startswith("It is red.&lt;|im_end|&gt;↵") and "What" not in answers
    assert all(re.fullmatch(r"\d+(, \d+)*", ids) for _, ids in scored)
    assert {word for marks, _, word in words if "x" in marks.split()} == {"&lt;|im_start|&gt;", "&lt;|im_end|&gt;"}


def test_untrusted_texts_are_escaped(folder, tmp_path):
    rows = [conversation(i, HOSTILE, id=f"r{i}{HOSTILE}") for i in range(4)]
    rows += [conversation(5, image=f"{HOSTILE}.png"), {**conversation(6), "id": "\ud83d half", "image": "gone.png"}]
    cfg = config(folder, rows, name=HOSTILE, data__max_length=256)
    text, reader, _ = page_of(cfg, tmp_path / "out")
    assert text.count("<script") == 1 and "alert(1)</script>" not in text  # the page's own filter
    assert "<img src=x" not in text and "onerror=alert(2)>" not in text.replace("onerror=alert(2)&gt;", "")
    assert "49" not in re.sub(r"[^{}]", "", text)  # no template is run in it
    assert "&lt;/p&gt;&lt;script&gt;" in text and "\\ud83d half" in text and len(reader.sources) == 8


def test_pairs_are_beside_each_other_with_their_difference(folder, tmp_path):
    rows = [pair(i, "It is red.", f"It is {'blue' * (i + 1)}.") for i in range(5)]
    rows += [pair(5, "It is red.", "It is red."), pair(6, "It is red.", "it is RED. ")]
    text, _, numbers = page_of(
        config(folder, rows, "mmpr", objective__name="dpo", data__max_bad_share=0.5), tmp_path / "out"
    )
    assert (numbers["kind"], numbers["rows"], numbers["bad_rows"]) == ("preference", 6, 1)
    assert numbers["duplicates"]["equal_pairs"] == numbers["duplicates"]["nearly_equal_pairs"] == 1
    assert warned(numbers, "1 pair with the same chosen and rejected answer")
    assert warned(numbers, "1 pair whose answers differ only in white space")
    assert text.count("Chosen answer") == text.count("Rejected answer") == 6
    changed = "".join(re.findall(r'<i class="y d" title="[\d, ]+">(.*?)</i>', text))
    assert "blue" in changed.replace(" ", "") and "red" in changed
    length = warned(numbers, "The rejected answers are")
    assert length and "a model can learn the length" in length[0]["text"]


def test_answers_with_a_label_and_visual_pairs(folder, tmp_path):
    rows = [{"id": str(i), "prompt": f"<image>\nWhat {i}?", "completion": f"It is {i}.", "label": i % 2 == 0,
             "images": [f"{i}.png"]} for i in range(6)]  # fmt: skip
    text, _, numbers = page_of(config(folder, rows, "trl", objective__name="kto"), tmp_path / "kto")
    assert numbers["kind"] == "unpaired" and "Answer to another prompt" in text
    assert "Chosen answer" in text and "Rejected answer" in text
    visual = config(
        folder, [conversation(i) for i in range(6)], entry={"image_negatives": "noise:0.5"},
        objective__name="dpo", data__images_per_row=2,
    )  # fmt: skip
    text, reader, numbers = page_of(visual, tmp_path / "visual", rows=2)
    assert numbers["images"] == 12 and "With the other image (rejected)" in text and "rejected side" in text
    assert numbers["duplicates"]["images_in_several_rows"] == 0 and len(reader.sources) % 4 == 0


def test_prompts_and_the_fields_that_rewards_read(folder, tmp_path):
    """A user's file of a reward is not run; a column that some rows lack is a warning, one that all lack an error."""
    (folder / "mine.py").write_text("raise SystemExit('run')\ndef mine(completions, level, other=1, **kw):\n    pass\n")
    rows = [
        {"id": str(i), "question": f"What is {i}?", "answer": str(i), "image": f"{i}.png", "level": i if i else None}
        for i in range(6)
    ]
    rewards = ({"name": "number"}, {"name": f"{folder}/mine.py:mine"}, {"name": "exact", "column": "truth"})
    cfg = config(
        folder, rows, "qa", objective__name="policy", rl__algorithm="rloo", rl__rewards=rewards, rl__responses=2
    )
    text, _, numbers = page_of(cfg, tmp_path / "out")
    assert numbers["kind"] == "prompt" and numbers["epoch"] is None and numbers["packings"] == []
    assert numbers["columns"]["answer"] == 6 and numbers["columns"]["level"] == 5
    assert "read by number" in text and "read by mine" in text
    (some,) = warned(numbers, "reads the column 'level'")
    (none,) = warned(numbers, "reads the column 'truth'")
    assert (some["level"], none["level"]) == ("warning", "error") and "no value in 1 row" in some["text"]
    assert "Buckets and padding" not in text and "Prompts of online RL" in text


def test_prompts_without_an_end(folder, tmp_path):
    source = ({"format": "scenes_tasks", "tasks": (("count", 1.0),)},)
    cfg = config(folder, [], objective__name="policy", rl__algorithm="rloo", rl__rewards=({"name": "number"},),
                 rl__responses=2, train__steps=3, data__sources=source, data__max_length=256)  # fmt: skip
    text, _, numbers = page_of(cfg, tmp_path / "out", rows=2)
    assert numbers["rows"] == 1000 and "the first 1,000 of a source without an end" in text and "no epochs" in text


def test_captions(folder, tmp_path):
    rows = [conversation(i, "red " * (40 if i == 5 else 3)) for i in range(8)]
    cfg = config(folder, rows, objective__name="contrastive", model__text__max_length=16)
    text, _, numbers = page_of(cfg, tmp_path / "out")
    assert numbers["kind"] == "contrastive" and numbers["truncated_rows"] == 1 and numbers["packings"] == []
    assert numbers["epoch"]["positions"] == 8 * 16
    (warning,) = warned(numbers, "12.5 % of the rows (1)")
    assert "model.text.max_length=" in warning["fix"] and "Caption" in text


def test_patches_of_qwen_vl(folder, tmp_path):
    """Images keep their ratio; what the page shows is the resized image, put together from its patches."""
    cfg = config(
        folder, [conversation(i) for i in range(0, 12, 3)], data__image__preset="qwen2_5_vl",
        data__image__max_patches=64, data__image__min_pixels=64, model__vision__family="qwen2_5_vl",
        model__vision__patch_size=4, model__vision__window=16, model__vision__full_blocks=(1,),
        model__decoder__mrope_section=(1, 1, 2), model__vision__activation="silu", data__max_length=128,
    )  # fmt: skip
    text, _, numbers = page_of(cfg, tmp_path / "out", rows=1, seed=0)
    # 24 x 40 pixels → units of 8: 3 x 5 tokens of 2 x 2 patches.
    assert "model: 40 × 24, 5 × 3 tokens" in text and "&lt;image&gt; × 15" in text
    assert numbers["lengths"]["image tokens"]["mean"] == 15.0
    shown = re.search(r'src="data:image/png;base64,([^"]+)" alt="model: 40 × 24', text)
    original = re.search(r'src="data:image/png;base64,([^"]+)" alt="original: 40 × 24', text)
    pixels = [np.asarray(Image.open(io.BytesIO(base64.b64decode(one[1]))))[::4, ::4] for one in (shown, original)]
    assert np.array_equal(*pixels)  # of a size that needs no resizing
    assert "background-size: 20.0% 33.33" in text


def test_tiles(folder, tmp_path):
    cfg = config(folder, [conversation(i) for i in range(4)], data__image__max_tiles=5, model__projector__newline=True,
                 data__max_length=256)  # fmt: skip
    text, _, numbers = page_of(cfg, tmp_path / "out", rows=4)
    # 24 x 40 → 2 x 2 tiles of 16; 16 x 16 → 1; 64 x 24 → 3 x 1
    assert "model, overview: 16 × 16" in text and "model: 32 × 32, 2 × 2 tiles" in text
    assert "1 × 3 tiles" in text and "1 × 1 tiles" in text and numbers["kind"] == "sft"


def test_what_would_stop_training_is_said(folder, tmp_path):
    _, _, few = page_of(config(folder, [conversation(0)] * 3), tmp_path / "few")
    assert few["warnings"][0]["level"] == "error" and "fewer than data.batch_size=4" in few["warnings"][0]["text"]
    packing = config(folder, [conversation(i) for i in range(8)], data__packing=4, data__buckets=((64, 32),))
    _, _, packed = page_of(packing, tmp_path / "packed")
    assert "4 rows in a sequence need up to" in packed["warnings"][0]["text"] and packed["epoch"] is None


def test_a_bad_image_is_said_in_its_row(folder, tmp_path):
    (folder / "broken.png").write_bytes(b"no image")
    text, _, numbers = page_of(
        config(folder, [conversation(i, image="broken.png") for i in range(4)]), tmp_path / "out"
    )
    assert "broken.png cannot be read" in text and numbers["bad_rows"] == 0


def test_only_its_own_folder_is_replaced(folder, tmp_path):
    cfg, out = config(folder, [conversation(i) for i in range(4)]), tmp_path / "out"
    page_of(cfg, out)
    with pytest.raises(UserError, match="not empty"):
        pj.data_page(cfg, out)
    page_of(cfg, out, overwrite=True)
    (out / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match=r"did not write or that were changed since \(mine.txt"):
        pj.data_page(cfg, out, overwrite=True)


def test_the_same_seed_shows_the_same_rows(folder, tmp_path):
    cfg = config(folder, [conversation(i, f"It is {i}.") for i in range(12)])
    pages = [page_of(cfg, tmp_path / str(n), rows=2, seed=seed)[0] for n, seed in enumerate((1, 1, 2))]
    titles = [re.findall(r"<h4>(\w+)<span", page) for page in pages]
    assert titles[0] == titles[1] != titles[2]


def test_nothing_is_compiled(folder, tmp_path):
    """No JAX program: neither parameters nor a step."""
    events = []
    jax.monitoring.register_event_duration_secs_listener(lambda name, *_, **__: events.append(name))
    value_head = {"objective.name": "policy", "rl.algorithm": "ppo", "rl.rewards": ({"name": "number"},)}
    cfg = config(folder, [conversation(i) for i in range(4)])
    page_of(cfg, tmp_path / "sft")
    page_of(configs.load("", cfg.to_dict() | value_head), tmp_path / "ppo")
    assert not [name for name in events if "/jax/core/compile" in name]
    jax.jit(lambda x: x + 1.5)(np.float32(2)).block_until_ready()
    assert [name for name in events if "/jax/core/compile" in name]  # that the listener would have heard it
