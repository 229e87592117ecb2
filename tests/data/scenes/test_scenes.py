"""Scenes: what is asked and answered agrees with the things and the pixels; splits are disjoint; no TensorFlow."""

import dataclasses
import json
import re
import subprocess
import sys
from collections import Counter, defaultdict

import numpy as np
import pytest
from PIL import Image

from pivot_jax.data import scenes
from pivot_jax.data.scenes import World, make_rows
from pivot_jax.data.scenes.draw import digit_samples
from pivot_jax.data.scenes.language import DESCRIBE, IN_A_SENTENCE
from pivot_jax.data.scenes.tasks import TASKS
from pivot_jax.data.scenes.world import Thing, fold
from pivot_jax.errors import UserError

WORLDS = {
    "easy": World(),
    "free": World(image_size=48, grid=0, max_objects=4, noise=20.0, digit_share=0.3, max_overlap=0.5, turns=4),
    "nine": World(image_size=48, grid=3, min_objects=2, max_objects=5),
}
PHRASE = re.compile(r"a (?P<size>\w+) (?P<color>\w+) (?P<noun>\w+) at the (?P<place>\w+ \w+)")


def decode(buffer):
    return np.asarray(Image.open(buffer))


def scene_of(row):
    things = json.loads(row["things"])
    return tuple(Thing(**{k: v for k, v in t.items() if k != "phrase"}) for t in things)


def facts(text):
    """The (size, colour, noun, place) of every thing that a caption names."""
    return Counter(m.group("size", "color", "noun", "place") for m in PHRASE.finditer(text))


def true_facts(scene):
    return Counter((t.size, t.color, str(t.value) if t.shape == "digit" else t.shape, t.place) for t in scene)


def named(scene, name):
    """The one thing that a name such as 'red circle', 'circle', 'red thing' or 'thing at the top left' picks out."""
    if at := re.fullmatch(r"thing at the (.+)", name):
        found = [t for t in scene if t.place == at[1]]
    else:
        words = set(name.split()) - {"thing"}
        found = [t for t in scene if words <= {t.color, t.shape}]
    assert len(found) == 1, (name, scene)
    return found[0]


def solve(scene, question):
    """Answer from the things alone, written without looking at how questions are made."""
    if m := re.fullmatch(r"What color is the (.+)\?", question):
        return named(scene, m[1]).color
    if m := re.fullmatch(r"What shape is the (.+)\?", question):
        return named(scene, m[1]).shape
    if m := re.fullmatch(r"Where is the (.+)\?", question):
        return named(scene, m[1]).place
    if m := re.fullmatch(r"Which number is the (.+)\?", question):
        return str(named(scene, m[1]).value)
    if m := re.fullmatch(r"Is there a (\w+) (\w+)\?", question):
        return "yes" if any((t.color, t.shape) == m.groups() for t in scene) else "no"
    if m := re.fullmatch(r"Which is larger, the (.+) or the (.+)\?", question):
        a, b = named(scene, m[1]), named(scene, m[2])
        assert {a.size, b.size} == {"small", "large"}
        return m[1] if a.size == "large" else m[2]
    if m := re.fullmatch(r"Is the (.+) (left|above) or (right of|below) the (.+)\?", question):
        a, b = named(scene, m[1]), named(scene, m[4])
        first = a.x < b.x if m[2] == "left" else a.y < b.y
        return m[2] if first else m[3].removesuffix(" of")
    m = re.fullmatch(r"How many (.+) are there\?", question)
    assert m, question
    word = m[1].removesuffix(" things")
    if word == "things":
        return str(len(scene))
    singular = {"crosses": "cross"}.get(word, word.removesuffix("s"))
    return str(sum(word == t.color or singular == t.shape for t in scene))


def answered(text, answer):
    """Whether a long or short answer gives ``answer``."""
    return re.search(rf"\b{re.escape(answer)}\b", text) is not None


@pytest.mark.parametrize("world", WORLDS.values(), ids=WORLDS)
def test_answers_agree_with_the_things(world):
    for row in make_rows(world, "test", 200, 1):
        scene, question = scene_of(row), row["prompt"].removeprefix("<image>\n")
        assert solve(scene, question) == row["answer"], (question, scene)
        assert row["answer"] in json.loads(row["choices"])
    for row in make_rows(world, "vqa", 100, 1):
        scene, turns = scene_of(row), json.loads(row["conversations"])
        questions = [t["value"].removeprefix("<image>\n") for t in turns[::2]]
        assert len(set(questions)) == len(questions)
        for question, answer in zip(questions, (t["value"] for t in turns[1::2]), strict=True):
            if question == DESCRIBE:
                assert facts(answer) == true_facts(scene)
            elif question.endswith(IN_A_SENTENCE):
                assert answered(answer, solve(scene, question.removesuffix(IN_A_SENTENCE))) and answer.endswith(".")
            else:
                assert answer == solve(scene, question)


@pytest.mark.parametrize("world", WORLDS.values(), ids=WORLDS)
def test_chosen_is_true_and_rejected_is_false_by_one_attribute(world):
    styles = Counter()
    for row in make_rows(world, "preference", 300, 2):
        scene, question = scene_of(row), row["prompt"].removeprefix("<image>\n")
        if question == DESCRIBE:
            truth, wrong = true_facts(scene), facts(row["rejected"])
            assert facts(row["chosen"]) == truth
            removed, added = list((truth - wrong).elements()), list((wrong - truth).elements())
            assert len(removed) == len(added) == 1
            assert sum(a != b for a, b in zip(removed[0], added[0], strict=True)) == 1
            styles["describe"] += 1
            continue
        answer = solve(scene, question.removesuffix(IN_A_SENTENCE))
        assert answered(row["chosen"], answer)
        assert row["chosen"] != row["rejected"]
        if question.endswith(IN_A_SENTENCE):
            assert not answered(row["rejected"], answer) or " or " in question
            assert row["rejected"].split()[0] == row["chosen"].split()[0]
            styles["sentence"] += 1
        else:
            assert row["rejected"] != answer
            styles["short"] += 1
    assert min(styles[s] for s in ("describe", "sentence", "short")) > 60


@pytest.mark.parametrize("world", WORLDS.values(), ids=WORLDS)
def test_mask_agrees_with_things_and_pixels(world):
    still = dataclasses.replace(world, noise=0.0)
    for row in make_rows(still, "caption", 60, 3):
        image, instances, things = decode(row["image"]), decode(row["instances"]), json.loads(row["things"])
        assert image.shape == (world.image_size, world.image_size, 3) and image.dtype == np.uint8
        assert instances.max() <= len(things)
        background = image[instances == 0]
        for index, thing in enumerate(things):
            ys, xs = np.nonzero(instances == index + 1)
            if world.grid:
                assert len(ys) >= 8, thing  # nothing is hidden altogether
                assert world.place(xs.mean(), ys.mean()) == thing["place"]
            if len(ys):
                assert np.abs(ys - thing["y"]).max() <= world.cell / 2 + 2
                assert image[ys, xs].max(axis=1).mean() > background.max(axis=1).mean() + 40
        classes = scenes.class_mask(world, instances, things)
        for index, thing in enumerate(things):
            inside = classes[instances == index + 1]
            assert (inside == 1 + world.nouns.index(thing["shape"])).all()
        assert (classes[instances == 0] == 0).all()


def test_labels_name_the_one_large_shape():
    names = scenes.label_names(World())
    for row in make_rows(World(), "probe_train", 100, 0):
        large = [t for t in json.loads(row["things"]) if t["size"] == "large" and t["shape"] != "digit"]
        assert len(large) == 1
        assert names[row["label"]] == f"{large[0]['color']} {large[0]['shape']}"


def test_same_seed_same_rows_and_other_seed_others():
    def content(seed, count):
        return [
            {k: v.getvalue() if hasattr(v, "getvalue") else v for k, v in row.items()}
            for row in make_rows(World(), "preference", count, seed)
        ]

    assert content(5, 20) == content(5, 20)
    assert content(5, 40)[:20] == content(5, 20)  # a longer split begins with the shorter one
    assert content(5, 20) != content(6, 20)


def test_splits_show_disjoint_layouts_and_handwriting():
    layouts = {split: {fold(scene_of(r)) for r in make_rows(World(), split, 40, 0)} for split in TASKS}
    for split, task in TASKS.items():
        assert layouts[split] <= set(task.folds)
    for held_out in ("preference_test", "probe_test", "test"):
        for trained in ("caption", "vqa", "stage3", "preference", "probe_train", "probe_val"):
            assert not layouts[held_out] & layouts[trained]
    assert not layouts["vqa"] & layouts["preference"]
    for value in range(10):
        assert not set(digit_samples(False)[value]) & set(digit_samples(True)[value])
    unseen = {s for samples in digit_samples(True).values() for s in samples}
    for row in make_rows(World(), "test", 100, 0):
        assert all(t.sample in unseen for t in scene_of(row) if t.shape == "digit")


def test_language_alone_does_not_answer():
    """A guesser that knows every training question's most frequent answer stays below 35 %."""
    seen = defaultdict(Counter)
    for row in make_rows(World(), "vqa", 1000, 0):
        turns = json.loads(row["conversations"])
        for question, answer in zip(turns[::2], turns[1::2], strict=True):
            seen[question["value"].removeprefix("<image>\n")][answer["value"]] += 1
    rows = list(make_rows(World(), "test", 800, 0))
    hits = [seen[r["prompt"].removeprefix("<image>\n")].most_common(1)[:1] for r in rows]
    assert np.mean([bool(h) and h[0][0] == r["answer"] for h, r in zip(hits, rows, strict=True)]) < 0.35
    kinds = Counter(r["kind"] for r in rows)
    for kind, share in World().questions:
        assert abs(kinds[kind] / len(rows) - share) < 0.03
    for kind, most in (("color", 0.25), ("shape", 0.3), ("place", 0.35), ("exists", 0.6), ("digit", 0.25)):
        answers = Counter(r["answer"] for r in rows if r["kind"] == kind)
        assert max(answers.values()) <= most * kinds[kind], answers


def test_prepared_data_reads_back_without_tensorflow(tmp_path):
    code = f"""
import sys
from pivot_jax.data import scenes
folder = scenes.prepare({str(tmp_path)!r}, scenes.World(), {{"vqa": 12, "probe_train": 9}}, seed=4)
rows = scenes.open_split(folder, "vqa")
assert len(rows) == 12 and [r["id"] for r in rows] == [b"vqa-%06d" % i for i in range(12)]
assert "tensorflow" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    folder = scenes.prepare(tmp_path, World(), {"vqa": 12, "probe_train": 9}, seed=4)
    made = list(make_rows(World(), "probe_train", 9, 4))
    split = scenes.probe_split(folder, "probe_train", World())
    np.testing.assert_array_equal(split.images, [decode(r["image"]) for r in made])
    assert split.labels.tolist() == [r["label"] for r in made]
    masks = [scenes.class_mask(World(), decode(r["instances"]), json.loads(r["things"])) for r in made]
    np.testing.assert_array_equal(split.masks, masks)
    with pytest.raises(UserError, match="no split 'nothing'"):
        scenes.open_split(folder, "nothing")


def test_a_name_is_not_used_for_two_worlds(tmp_path):
    folder = scenes.prepare(tmp_path, World(), {"vqa": 3}, name="mine")
    assert folder == str(tmp_path / "scenes" / "mine" / "1.0.0")
    assert scenes.prepare(tmp_path, World(), {"vqa": 3}, name="mine") == folder
    with pytest.raises(UserError, match="holds another world"):
        scenes.prepare(tmp_path, World(noise=1.0), {"vqa": 3}, name="mine")


def test_impossible_worlds_are_refused_in_one_line():
    for change, message in (
        ({"grid": 4}, "grid is 4"),
        ({"max_objects": 5}, "objects 1..5"),
        ({"shapes": ("circle", "blob")}, "choose at least two"),
        ({"digit_share": 1.5}, "digit_share is 1.5"),
        ({"image_size": 8}, "image_size is 8"),
    ):
        with pytest.raises(UserError, match=message):
            World(**change)
    with pytest.raises(UserError, match="unknown splits"):
        scenes.scenes_config(World(), {"train": 3})
    crowd = World(image_size=24, grid=0, max_objects=8, min_objects=8, max_overlap=0.0)
    with pytest.raises(UserError, match="do not fit"):
        next(make_rows(crowd, "caption", 1, 0))
