"""What a twin's folder holds: rows in their order, arguments, script; and what has no twin."""

from __future__ import annotations

import ast
import json

import numpy as np
import pytest
import yaml
from PIL import Image

from pivot_jax.data.example import Example, Message
from pivot_jax.errors import UserError
from pivot_jax.train.setup import build_setup
from pivot_jax.twin import llamafactory, rows, write
from pivot_jax.twin.arguments import LLAVA, arguments, check, module_rates
from pivot_jax.twin.rewards import reward_functions
from tests.train.conftest import QWEN, source


def question(text, **more):
    return Example("1", (Message("user", text),), **more)


def test_images_stay_where_the_row_has_them(tmp_path):
    pixels = np.full((4, 6, 3), 7, np.uint8)
    example = question("a <image>\nb<image>", images=(pixels, str(tmp_path / "x.png")), chosen="c", rejected="d")
    found = rows.row(example, "preference", rows.Images(tmp_path))
    assert found["prompt"][0]["content"] == [
        {"type": "text", "text": "a "}, {"type": "image"}, {"type": "text", "text": "\nb"}, {"type": "image"},
    ]  # fmt: skip
    assert found["chosen"] == [{"role": "assistant", "content": [{"type": "text", "text": "c"}]}]
    assert np.array_equal(Image.open(tmp_path / found["images"][0]), pixels)
    assert found["images"][1] == str(tmp_path / "x.png")


def test_sft_takes_the_chosen_answer_and_prompts_keep_their_columns(tmp_path):
    images = rows.Images(tmp_path)
    example = question("q", chosen="c", rejected="d", extra={"answer": np.int64(3)})
    assert [one["role"] for one in rows.row(example, "sft", images)["messages"]] == ["user", "assistant"]
    found = rows.row(example, "policy", images)
    assert json.loads(found["columns"]) == {"answer": 3} and found["prompt"][0]["role"] == "user"


def test_a_visual_pair_has_no_twin_and_sft_leaves_its_other_image_out(tmp_path):
    example = question("<image>\nq", images=("a.png", "b.png"), chosen="c", images_rejected=1)
    images = rows.Images(tmp_path)
    assert [one.rpartition("/")[2] for one in rows.row(example, "sft", images)["images"]] == ["a.png"]
    for made in (lambda: rows.row(example, "preference", images), lambda: llamafactory.row(example, True, images)):
        with pytest.raises(UserError, match="row '1': a visual pair .image_rejected. has no twin"):
            made()


def test_an_unknown_library_is_named(make_config, tmp_path):
    with pytest.raises(UserError, match="to: 'jax' is unknown; choose one of trl, llamafactory"):
        write.write(make_config(), tmp_path / "out", "jax")


def test_rows_are_in_the_order_of_the_steps(make_config, world, tmp_path):
    config = make_config(train__steps=5, data__sources=(source(world, "next_dpo"),), objective__name="dpo")
    out = write.write(config, tmp_path / "trl").parent
    setup = build_setup(config, None)
    wanted = [
        setup.loader.data.row_id(int(i)) for step in range(5) for i in setup.loader.batch_at(step).row_index[:, 0]
    ]
    written = [json.loads(line) for line in (out / "rows.jsonl").read_text().splitlines()]
    assert [f"row{row['images'][0].rpartition('/')[2].removesuffix('.png')}" for row in written] == wanted


def test_the_script(make_config, world):
    config = make_config(
        data__sources=(source(world, "next_dpo"),), objective__name="dpo", objective__beta=0.3, train__accumulate=2,
        optimizer__rules=(("vision/.*", "frozen"), (".*", 1e-3)), objective__f_divergence_type="js_divergence",
    )  # fmt: skip
    tree = ast.parse(write.script(build_setup(config, None), "DPO"))
    found = {node.targets[0].id: node.value for node in tree.body if isinstance(node, ast.Assign)}
    rates = ast.literal_eval(found["RATES"])
    assert rates == {"vision_tower": None, "multi_modal_projector": 1e-3, "language_model": 1e-3, "lm_head": 1e-3}
    given = {one.arg: ast.literal_eval(one.value) for one in found["ARGUMENTS"].keywords}
    assert given["beta"] == 0.3 and given["f_divergence_type"] == "js_divergence" and "ld_alpha" not in given
    assert given["per_device_train_batch_size"] * given["gradient_accumulation_steps"] == config.data.batch_size
    assert given["loss_type"] == ["sigmoid"] and given["max_steps"] == 3


def test_the_trainers_know_all_arguments(make_config, rl_config, world):
    import trl

    pairs = (source(world, "next_dpo"),)
    everything = {
        "objective__ld_alpha": 0.5, "objective__use_weighting": True, "objective__f_divergence_type": "forward_kl",
    }  # fmt: skip
    for config, kind in (
        (make_config(), trl.SFTConfig),
        (make_config(objective__name="dpo", data__sources=pairs, **everything), trl.DPOConfig),
        (rl_config(rl__importance="none"), trl.GRPOConfig),
    ):
        assert set(arguments(build_setup(config, None))) <= set(kind.__dataclass_fields__)


WITHOUT = {
    "has no simpo": {"objective__name": "simpo"},
    "bco_shift=none has a twin": {"objective__name": "mpo"},
    "no trainer for stage 0": {"objective__name": "contrastive"},
    "answers with labels": {"objective__name": "kto"},
    "reads it for robust": {"objective__name": "dpo", "objective__label_smoothing": 0.1},
    "response_only has a twin": {"data__loss_mask": "pivot"},
    "a caption and its newline": {"data__template": "plain"},
    "adapters have no twin yet": {"lora__rank": 2},
    "float32 has a twin": {"optimizer__master_dtype": "bfloat16"},
    "rl.advantage=reinforce++": {"objective__name": "policy", "rl__algorithm": "maye"},
    "rl.importance=sequence_mask": {"objective__name": "policy", "rl__algorithm": "trl-grpo"},
    "one step for each has a twin": {"objective__name": "policy", "rl__algorithm": "dr-grpo", "rl__minibatches": 2},
}


@pytest.mark.parametrize("reason", WITHOUT)
def test_what_has_no_twin_is_named(make_config, reason):
    with pytest.raises(UserError, match="TRL has no twin of this run: .*") as error:
        check(make_config(**WITHOUT[reason]))
    assert reason in str(error.value) and "\n" not in str(error.value)


def qwen(make_config, qwen_sources, name="pairs", **changes):
    return make_config(data__sources=(qwen_sources[name],), data__batch_size=4, **QWEN | changes)


def test_llamafactory(make_config, qwen_sources, tmp_path):
    config = qwen(
        make_config, qwen_sources, objective__name="dpo", objective__terms=(("sigmoid", 1.0), ("sft", 0.3)),
        optimizer__rules=(("vision/.*", "frozen"), (".*", 1e-3)), train__steps=3,
    )  # fmt: skip
    path = write.write(config, tmp_path / "twin", "llamafactory")
    found = yaml.safe_load(path.read_text())
    assert (found["stage"], found["pref_loss"], found["pref_ftx"], found["learning_rate"]) == (
        "dpo",
        "sigmoid",
        0.3,
        1e-3,
    )
    assert found["freeze_vision_tower"] and not found["freeze_multi_modal_projector"]
    info = json.loads((path.parent / "dataset_info.json").read_text())["rows"]
    written = [json.loads(line) for line in (path.parent / info["file_name"]).read_text().splitlines()]
    assert len(written) == 12 and set(info["columns"].values()) <= set(written[0])
    for row in written:
        assert sum(turn["value"].count("<image>") for turn in row["conversations"]) == len(row["images"])
        assert "<image>\n" not in row["conversations"][-1]["value"] and row["chosen"]["from"] == "gpt"


def test_what_llamafactory_lacks_is_named(make_config, qwen_sources):
    reasons = {
        "LLaVA's images": make_config(),
        "it trains sft and preference": make_config(objective__name="contrastive"),
        "one of sigmoid, hinge, ipo": qwen(make_config, qwen_sources, objective__name="simpo"),
        "adds a system turn": qwen(make_config, qwen_sources, "chats", tokenizer__system=""),
    }
    for reason, config in reasons.items():
        with pytest.raises(UserError, match="LLaMA-Factory has no twin") as error:
            llamafactory.check(config)
        assert reason in str(error.value)
    rates = qwen(make_config, qwen_sources, "chats", optimizer__rules=(("vision/.*", 1e-4), (".*", 1e-3)))
    with pytest.raises(UserError, match=r"the learning rates 0\.0001, 0\.001; it has one"):
        llamafactory.arguments(build_setup(rates, None))


def test_several_rates_in_one_part_have_no_twin():
    rates = {"vision/embed/kernel": 1e-3, "vision/blocks/mlp": 1e-4, "vision/final/norm": "frozen"}
    with pytest.raises(UserError, match="several learning rates within 'vision' .0.0001, 0.001."):
        module_rates(rates, LLAVA)


def test_rewards_as_trl_calls_them(reward_file):
    entries = [
        {"name": f"{reward_file}:count"},
        {"name": "text", "extract": "whole", "column": "gold", "label": "same"},
    ]
    own, built_in = reward_functions(entries, end_id=9)
    said = [[{"role": "assistant", "content": "See "}], [{"role": "assistant", "content": "no"}]]
    prompt = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "\nq"}]}]
    given = {
        "prompts": [prompt] * 2, "completions": said, "completion_ids": [[1, 9], [2]],
        "columns": ['{"gold": "See"}', '{"gold": "yes"}'], "images": [[None], [None]], "trainer_state": None,
    }  # fmt: skip
    assert own(**given) == [2.0, 0.0] and own.__name__ == "count"
    assert built_in(**given) == [1.0, 0.0] and built_in.__name__ == "same"
