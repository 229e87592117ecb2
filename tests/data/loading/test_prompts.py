"""Prompts of rollouts: order, resume, parts of several processes, bad rows, columns, and sources without an end."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest

from pivot_jax.data.loading.loader import build_loader
from pivot_jax.data.loading.prompts import PromptLoader, PromptRows, build_prompts
from pivot_jax.data.processing.processor import build_processor
from pivot_jax.errors import UserError
from tests.data.conftest import config, llava_row, preference_row, write_jsonl


def maye_row(i: int, **more) -> dict:
    row = {"id": f"row{i}", "image": f"{i}.png", "question": f"Find x {i}.", "answer": str(i), "solution": f"= {i}"}
    return row | more


@pytest.fixture
def rows(tmp_path, image_folder):
    """Config entry of 40 prompts with images."""
    path = write_jsonl(tmp_path / "rows.jsonl", [maye_row(i) for i in range(40)])
    return {"format": "maye", "path": path, "image_root": str(image_folder), "suffix": ""}


def settings(*sources, prompts: int = 6, steps: int = 0, **data):
    cfg = config(*sources, **({"batch_size": prompts} | data))
    with cfg.unlocked():
        cfg.data.image.size = 8
        cfg.train.steps = steps
    return cfg


def load(cfg, tokenizer, **more) -> PromptLoader:
    return build_prompts(cfg, build_processor(cfg, tokenizer, "sft", patch_size=4), **more)


def first(loader: PromptLoader, count: int) -> list[PromptRows]:
    return list(itertools.islice(loader, count))


def numbers(rollouts: list[PromptRows]) -> list[list[int]]:
    return [rollout.numbers.tolist() for rollout in rollouts]


def test_rows_of_a_rollout(rows, tokenizer, image_folder):
    """Example, tokens, image references and number belong together; the prompt ends with the open answer."""
    loader = load(settings(rows), tokenizer)
    assert (loader.rows, loader.batch_size, loader.steps_per_epoch) == (40, 6, 6)
    rollout = next(iter(loader))
    assert len(rollout) == 6 and rollout.numbers.dtype == np.int64 and rollout.epoch == 0
    for example, row, number in zip(rollout.examples, rollout.rows, rollout.numbers, strict=True):
        assert example.id == row.id == f"row{number}" and example.extra == {"answer": str(number),
                                                                            "solution": f"= {number}"}  # fmt: skip
        assert row.images == example.images == (str(image_folder / f"{number}.png"),)
        text = tokenizer.decode(row.tokens)
        assert f"Find x {number}." in text and text.endswith("assistant\n") and len(row.targets) == 0


def test_order_is_of_seed_and_epoch(rows, tokenizer):
    loader = load(settings(rows), tokenizer)
    rollouts = first(loader, 18)
    assert [rollout.epoch for rollout in rollouts] == [0] * 6 + [1] * 6 + [2] * 6
    epochs = [np.concatenate([r.numbers for r in rollouts[i : i + 6]]).tolist() for i in (0, 6, 12)]
    assert all(len(set(epoch)) == 36 for epoch in epochs)  # 4 are left out, others each epoch
    assert len({tuple(epoch) for epoch in epochs}) == 3 and set(itertools.chain(*epochs)) == set(range(40))
    assert numbers(first(load(settings(rows), tokenizer), 18)) == numbers(rollouts)
    with (other := settings(rows)).unlocked():
        other.seed = 1
    assert numbers(first(load(other, tokenizer), 6)) != numbers(rollouts[:6])
    unshuffled = load(settings(rows, shuffle=False), tokenizer)
    assert np.concatenate([r.numbers for r in first(unshuffled, 7)]).tolist() == [*range(36), *range(6)]


@pytest.mark.parametrize("endless", [False, True])
def test_state_is_one_number_and_resumes(rows, tokenizer, endless):
    cfg = settings({"format": "scenes_tasks"} if endless else rows, steps=5)
    iterator = iter(load(cfg, tokenizer))
    seen, states = [], []
    for _ in range(9):
        states.append(json.loads(json.dumps(iterator.get_state())))
        seen.append(next(iterator))
    assert states[4]["grain"] == {"next_index": 4}
    for step in (0, 4, 8):
        resumed = iter(load(cfg, tokenizer))
        resumed.set_state(states[step])
        assert numbers(list(itertools.islice(resumed, 9 - step))) == numbers(seen[step:])
    other = iter(load(settings(rows, prompts=7), tokenizer))
    with pytest.raises(UserError, match="does not fit this data set"):
        other.set_state(states[0])


@pytest.mark.parametrize("endless", [False, True])
def test_several_processes_share_a_rollout(rows, tokenizer, endless):
    cfg = settings({"format": "scenes_tasks"} if endless else rows, steps=5)
    whole = first(load(cfg, tokenizer), 8)
    parts = [first(load(cfg, tokenizer, process=(i, 3)), 8) for i in range(3)]
    for step, rollout in enumerate(whole):
        assert [len(part[step]) for part in parts] == [2, 2, 2]
        joined = [part[step] for part in parts]
        assert np.concatenate([part.numbers for part in joined]).tolist() == rollout.numbers.tolist()
        assert [e.id for part in joined for e in part.examples] == [e.id for e in rollout.examples]
    with pytest.raises(UserError, match=r"data\.batch_size: 6 rows cannot be split evenly over 4 processes"):
        load(cfg, tokenizer, process=(0, 4))


def test_bad_rows_are_skipped_and_counted(tmp_path, image_folder, tokenizer):
    bad = [
        maye_row(0, question="long " * 300),
        maye_row(1, image="gone.png"),
        {"id": "no answer", "question": "?"},
        "{broken",
    ]
    path = write_jsonl(tmp_path / "rows.jsonl", [*bad, *[maye_row(i) for i in range(4, 20)]])
    entry = {"format": "maye", "path": path, "image_root": str(image_folder), "suffix": ""}
    cfg = settings(entry, max_bad_share=0.25)
    loader = load(cfg, tokenizer, workdir=tmp_path)
    assert loader.rows == 16 and loader.data.skipped.count == 4
    assert {e.id for r in loader.ordered() for e in r.examples} == {f"row{i}" for i in range(4, 20)}
    reasons = {e["id"]: e["reason"] for e in map(json.loads, (tmp_path / "skipped.jsonl").read_text().splitlines())}
    assert "tokens, the limit is 128" in reasons["row0"] and "gone.png does not exist" in reasons["row1"]
    assert "both missing" in reasons["no answer"] and len(reasons) == 4
    with pytest.raises(
        UserError,
        match="4 of 20 rows of rows.jsonl are bad.*, more than data.max_bad_share=0.1 allows; fix or remove them",
    ):
        load(settings(entry, max_bad_share=0.1), tokenizer)


def test_columns_and_how_many_rows_have_them(tmp_path, image_folder, tokenizer):
    """Counted over usable rows of all sources; null is no value. The count is read again with a stored index."""
    own = [maye_row(i, level=i if i < 3 else None, nothing=None) for i in range(10)]
    own.append({"id": "bad", "question": "?", "only_bad": 1})
    entry = {"format": "maye", "path": write_jsonl(tmp_path / "a.jsonl", own), "image_root": str(image_folder)}
    pairs = write_jsonl(tmp_path / "b.jsonl", [preference_row(i) for i in range(5)])
    talks = write_jsonl(tmp_path / "c.jsonl", [llava_row(i) for i in range(4)])
    others = [{"format": name, "path": path, "image_root": str(image_folder)}
              for name, path in (("mmpr", pairs), ("llava", talks))]  # fmt: skip
    cfg = settings(entry, *others, max_bad_share=0.1, max_length=256)
    for _ in range(2):
        columns = load(cfg, tokenizer).columns()
        assert columns == {"answer": 19, "chosen": 5, "level": 3, "rejected": 5, "solution": 10}


def test_a_stored_index_keeps_the_columns(rows, tokenizer, tmp_path, monkeypatch):
    from pivot_jax.data.loading import index_cache

    monkeypatch.setattr(index_cache, "STORE_FROM", 10)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    made = load(settings(rows), tokenizer, workdir=tmp_path / "run")
    assert len(list(tmp_path.glob("pivot-jax/indexes/*.npz"))) == 1
    monkeypatch.setattr(index_cache, "build_index", None)  # must not be called again
    again = load(settings(rows), tokenizer, workdir=tmp_path / "run")
    assert again.columns() == made.columns() == {"answer": 40, "solution": 40}
    assert again.fingerprint() == made.fingerprint()
    assert numbers(first(again, 3)) == numbers(first(made, 3))


def test_a_source_without_an_end(tokenizer):
    loader = load(settings({"format": "scenes_tasks", "seed": 2}, steps=5), tokenizer)
    assert (loader.rows, loader.steps_per_epoch) == (0, 0)
    rollouts = first(loader, 20)
    assert np.concatenate([r.numbers for r in rollouts]).tolist() == list(range(120))
    assert len({e.id for r in rollouts for e in r.examples}) == 120 and {r.epoch for r in rollouts} == {0}
    assert set(loader.columns()) == {"task", "answer", "choices", "boxes", "image_size", "things"}
    images = loader.data.processor.read_images(rollouts[0].rows[0].images)
    assert images.pixels.shape == (1, 8, 8, 3) and images.pixels.std() > 0
    far = loader.rows_at(10**9)
    assert far.numbers[0] == 6 * 10**9 and far.examples[0].id == f"train-2-{6 * 10**9}"


def test_a_source_without_an_end_has_no_epochs(tokenizer):
    entry = {"format": "scenes_tasks"}
    with pytest.raises(UserError, match="scenes_tasks/train has no end to count train.epochs by; set train.steps"):
        load(settings(entry), tokenizer)
    loader = load(settings(entry, steps=5), tokenizer)
    with pytest.raises(UserError, match="has no end; add 'sampling': 'first:N'"):
        loader.ordered()
    with pytest.raises(UserError, match="has no end; add 'sampling': 'first:N'"):
        load(settings(entry, steps=5), tokenizer, sources=(entry,), batch_size=4)
    cfg = settings(entry)
    with pytest.raises(UserError, match="has no end, and only online RL takes such a source"):
        build_loader(cfg, build_processor(cfg, tokenizer, "sft", patch_size=4))
    short = load(settings(entry, steps=5, max_length=16), tokenizer)
    with pytest.raises(UserError, match=r"train-0-\d+.*tokens, the limit is 16.*change the source or the limit"):
        short.rows_at(0)


def test_evaluation_prompts(rows, tokenizer):
    """Other sources and another batch size; every prompt once; a process's part of the last batch may be empty."""
    held_out = {"format": "scenes_tasks", "split": "test", "sampling": "first:10"}
    cfg = settings(rows)
    found = list(load(cfg, tokenizer, sources=(held_out,), batch_size=4).ordered())
    assert numbers(found) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert all(e.id.startswith("test-0-") and e.images == r.images for x in found
               for e, r in zip(x.examples, x.rows, strict=True))  # fmt: skip
    parts = [list(load(cfg, tokenizer, sources=(held_out,), batch_size=4, process=(i, 2)).ordered()) for i in (0, 1)]
    assert numbers(parts[0]) == [[0, 1], [4, 5], [8, 9]] and numbers(parts[1]) == [[2, 3], [6, 7], []]


def test_fewer_prompts_than_a_rollout(rows, tokenizer):
    with pytest.raises(UserError, match=r"data\.batch_size: 41 prompts of rows\.jsonl, which has 40 usable rows"):
        load(settings(rows, prompts=41), tokenizer)
    few = load(settings(rows), tokenizer, batch_size=64)
    assert numbers(list(few.ordered())) == [list(range(40))]  # evaluation needs no full batch
    with pytest.raises(UserError, match="has 40 usable rows"):
        iter(few)


def test_steps_are_those_of_the_optimizer(rows, tokenizer):
    """6 rollouts an epoch, each 2 passes in 3 minibatches; a fraction of an epoch is rounded up to whole rollouts."""
    cfg = settings(rows)
    with cfg.unlocked():
        cfg.rl.epochs, cfg.rl.minibatches, cfg.train.epochs = 2, 3, 1.4
    loader = load(cfg, tokenizer)
    assert (loader.steps_per_epoch, loader.total_steps) == (36, 54)
    assert [rollout.epoch for rollout in first(loader, 8)] == [0] * 6 + [1] * 2
    with cfg.unlocked():
        cfg.train.steps = 7
    assert load(cfg, tokenizer).total_steps == 7


def test_rows_that_memory_does_not_hold_are_tokenised_again(rows, tokenizer):
    kept, again = (first(load(settings(rows, cache_rows_mib=mib), tokenizer), 7) for mib in (1, 0))
    for a, b in zip(kept, again, strict=True):
        assert [row.tokens.tolist() for row in a.rows] == [row.tokens.tolist() for row in b.rows]
        assert [row.images for row in a.rows] == [row.images for row in b.rows]


REAL = {
    "geometry3k_mini": {"path": "data.json", "answer_key": "answer_value"},
    "geometry3k_test_overlay": {"path": "data.jsonl", "choices_key": "choices"},
    "k12_math_mini": {"path": "data.json", "image_key": "image_path"},
    "mathvision": {"path": "data.jsonl", "choices_key": "options"},
}


@pytest.mark.parametrize("name", REAL)
def test_real_prompts_with_the_real_tokenizer(shared_data, qwen, name):
    """Every row of real mathematics with images of their own sizes, as Qwen2.5-VL reads it."""
    entry = {"format": "qa", **REAL[name], "path": str(shared_data / name / REAL[name]["path"])}
    cfg = settings(entry, max_length=2048)
    with cfg.unlocked():
        cfg.tokenizer.image_around = ("<|vision_start|>", "<|vision_end|>")
        cfg.data.image.update({"preset": "qwen2_5_vl", "max_patches": 4096, "max_pixels": 1003520})
    loader = build_prompts(cfg, build_processor(cfg, qwen, "sft", patch_size=14, mrope=True))
    total = {"geometry3k_mini": 57, "geometry3k_test_overlay": 444, "k12_math_mini": 340, "mathvision": 1269}[name]
    assert loader.rows == total and not loader.data.skipped.count and loader.columns()["answer"] == total
    rollout = next(iter(loader))
    pad = qwen.convert_tokens_to_ids("<|image_pad|>")
    for example, row in zip(rollout.examples, rollout.rows, strict=True):
        text = qwen.decode(row.tokens)
        assert text.startswith(
            "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n<|vision_"
        )
        assert text.endswith("<|im_end|>\n<|im_start|>assistant\n") and "<image" not in text
        assert (row.tokens == pad).sum() == (row.image_slots >= 0).sum() > 0 and row.positions.shape[1] == 3
        for choice in example.extra["choices"] if "choices_key" in REAL[name] else ():
            assert choice in text
    arrays = loader.data.processor.batch_of(rollout.examples[:2])
    assert arrays.tokens.shape[0] == 2 and arrays.patch_positions is not None
