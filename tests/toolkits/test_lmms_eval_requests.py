"""What the plugin makes of lmms-eval's own messages and limits: the prompts that ``pivot-jax eval`` asks."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from pivot_jax.adapters.model import Limits
from pivot_jax.errors import UserError
from tests.toolkits import golden

get_model = pytest.importorskip("lmms_eval.models", reason="lmms-eval is not installed here").get_model
lmms_eval = pytest.importorskip("pivot_jax.adapters.lmms_eval")
lmms_eval_tasks = pytest.importorskip("tests.toolkits.lmms_eval_tasks")

PROMPTS = json.loads((golden.FOLDER / "prompts_lmms_eval.json").read_text())["benchmarks"]
IMAGE = Image.fromarray(np.zeros((4, 4, 3), np.uint8))


@pytest.mark.parametrize("name", ["mme", "mmvp", "mmmu", "blink", "hallusionbench"])
def test_a_task_asks_the_recorded_prompts(name, tmp_path):
    """One image, several before the text, several inside it, none."""
    task = lmms_eval_tasks.task(name, tmp_path)
    for position, row in enumerate(task.test_docs()):
        example = lmms_eval.conversation(task.doc_to_messages(row), "x")
        wanted = PROMPTS[name][str(position)]
        assert [(one.role, one.content) for one in example.messages] == [("user", wanted["prompt"])]
        assert len(example.images) == wanted["prompt"].count("<image>")
        limits = lmms_eval.limits(task.config.generation_kwargs, name)
        assert (limits.max_new_tokens, list(limits.stop)) == (wanted["max_new_tokens"], wanted["stop"])


def test_lmms_eval_finds_the_classes_through_the_entry_point():
    assert get_model("pivot_jax") is lmms_eval.PivotJax
    assert get_model("pivot_jax", force_simple=True) is lmms_eval.PivotJaxSimple


def test_finding_them_imports_no_jax():
    code = "import sys; from lmms_eval import models; models.get_model_manifest('pivot_jax')"
    code += "; assert 'jax' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("options", "limits"),
    [
        ({}, Limits(1024)),
        ({"max_new_tokens": 5, "until": "\n", "do_sample": False, "num_beams": 1}, Limits(5, ("\n",))),
        ({"temperature": 0, "top_p": 0, "top_k": 1, "until": ["a", "b"]}, Limits(1024, ("a", "b"))),
        ({"temperature": 0.7, "top_k": 5, "top_p": None}, Limits(1024, (), 0.7, 1.0, 5)),
        ({"temperature": 1.0, "top_p": 0.9}, Limits(1024, (), 1.0, 0.9)),
        ({"temperature": 0.5, "min_p": 0.1}, Limits(1024, (), 0.5, min_p=0.1)),
    ],
)
def test_limits(options, limits):
    assert lmms_eval.limits(options, "task") == limits


def test_limits_that_have_no_effect_are_said_once(caplog):
    for _ in range(2):
        assert lmms_eval.limits({"seed": 3}, "one") == Limits(1024)
    assert [record.getMessage() for record in caplog.records] == [
        "task one: generation_kwargs seed have no effect here"
    ]


def test_beams_are_an_error():
    with pytest.raises(UserError, match="task t: num_beams is 5, which is not supported; add --gen_kwargs num_beams=1"):
        lmms_eval.limits({"num_beams": 5}, "t")


def content(*parts: object) -> list[dict]:
    kinds = [{"type": "text", "text": one} if isinstance(one, str) else {"type": "image", "url": one} for one in parts]
    return [{"role": "user", "content": kinds}]


def test_marks_in_the_text_say_where_images_go():
    assert lmms_eval.conversation(content(IMAGE, "is <image> red?"), "x").messages[0].content == "is <image> red?"
    with pytest.raises(UserError, match="x: <image> is 2 times in the text, for 1 image"):
        lmms_eval.conversation(content(IMAGE, "<image> or <image>?"), "x")


def test_other_media_are_an_error():
    video = [{"role": "user", "content": [{"type": "video", "url": "a.mp4"}, {"type": "text", "text": "What?"}]}]
    with pytest.raises(UserError, match="x: it has video; pivot_jax reads text and images"):
        lmms_eval.conversation(video, "x")
    with pytest.raises(UserError, match="x: dict in place of an image"):
        lmms_eval.conversation(content({"array": [0.0]}), "x")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({}, "name one of workdir=DIR"),
        ({"workdir": "a", "weights": "hf:b"}, "name one of workdir=DIR"),
        ({"weights": "hf:b", "step": 3}, "write weights=run:DIR@STEP"),
        ({"workdir": "a", "pretrained": "b"}, "'pretrained' is unknown; there are workdir, step and weights"),
        ({"workdir": "a", "batch_size": "auto:4"}, "'auto:4' is not a whole number from 1, nor auto"),
        ({"workdir": "a", "device": "cuda"}, "JAX takes the devices"),
    ],
)
def test_model_arguments(arguments, says):
    with pytest.raises(UserError, match=says):
        lmms_eval.PivotJax(**arguments)


def test_several_processes_are_an_error(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="start lmms-eval without `accelerate launch`"):
        lmms_eval.PivotJax(workdir="a")
