"""What a rollout leaves to look at: a line per response, thumbnails, and a table in TensorBoard."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from PIL import Image

from pivot_jax.report import run as report
from pivot_jax.rl import completions as module
from pivot_jax.rl.run import run
from tests.rl.conftest import completions
from tests.tiny.events import read as events

FIELDS = {
    "id", "sample", "prompt", "images", "answer", "completion", "finish", "tokens", "logp", "reward", "rewards",
    "advantage", "trained", "version",
}  # fmt: skip


def rows_of(workdir) -> list[list[dict]]:
    return [[json.loads(line) for line in text.split("\n") if line] for text in completions(workdir).values()]


def test_every_line_has_rewards_advantage_logprob_and_version(rl_config, world, tmp_path):
    """The advantage is GRPO's of the group's rewards, the log-prob that of the stored rollout."""
    run(rl_config(train__steps=2), tmp_path / "run")
    rollouts = rows_of(tmp_path / "run")
    assert len(rollouts) == 2
    for number, rows in enumerate(rollouts):
        assert all(set(row) == FIELDS and row["trained"] and row["version"] == number for row in rows)
        assert all(row["images"] == [str(world / f"{row['id'].removeprefix('row')}.png")] for row in rows)
        rewards = np.reshape([row["reward"] for row in rows], (4, 4))
        assert [row["rewards"]["count"] for row in rows] == [row["reward"] for row in rows]
        expected = (rewards - rewards.mean(1, keepdims=True)) / (rewards.std(1, ddof=1, keepdims=True) + 1e-4)
        np.testing.assert_allclose([row["advantage"] for row in rows], expected.ravel(), rtol=1e-5, atol=1e-6)
    assert np.ptp([row["advantage"] for row in rollouts[1]]) > 0.5
    with np.load(tmp_path / "run/rollouts/000001.npz") as stored:
        ends = np.cumsum(stored["lengths"])[:-1]
        sums = [part.sum() for part in np.split(stored["logps"].astype(np.float64), ends)]
    np.testing.assert_allclose([row["logp"] for row in rollouts[1]], sums, rtol=1e-9)


@pytest.mark.heavy
def test_groups_without_part_in_the_update_have_no_advantage(rl_config, tmp_path):
    """A filter drops some, and its surplus is in the file of the update that trains with it too."""
    config = rl_config(rl__algorithm="dapo", rl__filter="varied", rl__responses=2, rl__max_tokens=3, train__steps=4)
    run(config, tmp_path / "run")
    surplus = 0
    for rows in rows_of(tmp_path / "run"):
        trained = [row for row in rows if row["trained"]]
        assert len(trained) == 4 * 2 and len(rows) > len(trained)
        assert all((row["advantage"] is None) != row["trained"] for row in rows)
        surplus += sum(row["version"] < rows[-1]["version"] for row in trained)
    assert surplus > 0


def test_tables_go_to_tensorboard_with_the_metrics(rl_config, tmp_path):
    """Of rollouts 0 and 2 of 4, at the step that logs their metrics: 4 prompts with 4 responses and 4 images."""
    run(rl_config(rl__show_every=2), tmp_path / "run")
    found: dict[int, list] = {}
    for event in events(tmp_path / "run" / "tensorboard"):
        values = [value for value in event.summary.value if re.match("completions/(text|image)", value.tag)]
        if values:
            found.setdefault(event.step, []).extend(values)
    assert sorted(found) == [1, 3]
    text, *images = found[3]
    assert len(images) == 4 and {one.image.width for one in images} == {16}
    height, width = (dim.size for dim in text.tensor.tensor_shape.dim)
    cells = np.reshape([cell.decode() for cell in text.tensor.string_val], (height, width))
    names = ["image", "prompt", "completion", "reward", "count", "advantage", "log-prob", "tokens", "end"]
    assert cells[0].tolist() == names and height == 17
    rows = rows_of(tmp_path / "run")[2]
    assert cells[1:, 0].tolist() == [str(i // 4) for i in range(16)]
    assert cells[1:, 7].tolist() == [str(row["tokens"]) for row in rows]
    assert cells[1:, 5].tolist() == [f"{row['advantage']:.4g}".replace("-", r"\-").replace(".", r"\.") for row in rows]


@pytest.mark.heavy
def test_a_page_of_a_run_on_images_that_are_no_files(rl_config, tmp_path):
    """Scenes are arrays; those of every second rollout, and of held-out prompts, are kept and shown."""
    scenes = {"format": "scenes_tasks", "seed": 3}
    config = rl_config(
        data__sources=(scenes,), rl__show_every=2, train__steps=3, eval__every=3, data__max_length=512,
        rl__heldout__sources=({**scenes, "seed": 4, "sampling": "first:4"},),
    )  # fmt: skip
    run(config, tmp_path / "run")
    for number, rows in enumerate(rows_of(tmp_path / "run")):
        references = {row["images"][0] for row in rows}
        if number == 1:
            assert references == {"<ndarray>"}
        else:
            assert len(references) == 4 and all((tmp_path / "run" / one).is_file() for one in references)
    (section,) = [one for one in report.build(tmp_path / "run").sections if one.title == "Completions"]
    assert [block.title for block in section.blocks] == [
        "Rollout 0", "Rollout 1", "Rollout 2", "Held-out prompts after step 3",
    ]  # fmt: skip
    for block, kept in zip(section.blocks, (True, False, True, True), strict=True):
        assert all(isinstance(image, np.ndarray) == kept for prompt in block.prompts for image in prompt.images)
        assert len(block.prompts) == 4 and all(len(prompt.images) == 1 for prompt in block.prompts)


def test_an_image_that_is_no_file_is_kept_as_a_thumbnail(tmp_path):
    folder = tmp_path / "completions" / "images"
    pixels = np.random.default_rng(0).integers(0, 255, (40, 600, 3)).astype(np.uint8)
    path = module.reference(pixels, folder)
    assert Image.open(tmp_path / path).size == (256, 17)
    assert module.reference(pixels, folder) == path and len(list(folder.iterdir())) == 1
    assert module.reference(pixels[::-1], folder) != path
    assert module.reference("some/file.png", folder) == "some/file.png"
    assert module.reference(pixels, None) == "<ndarray>"
