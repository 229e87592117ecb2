"""Every command once, on a run of a few steps: what it prints and writes, and its errors."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pivot_jax.train.checkpoint import content_mark
from pivot_jax.train.checkpoints import Checkpoints
from tests.tiny import commands

run = commands.run


def test_train_writes_and_does_not_run_twice(world, trained, capsys):
    lines = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3]
    assert run("train", "--config", world / "tiny.py", "--workdir", trained) == 0
    shown = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["tiny:", "step", "3", "in", str(trained)] in shown
    (loss,) = [words[1:] for words in shown if words[:1] == ["loss"]]  # a line of the table of the last metrics
    assert loss == [f"{lines[-1]['loss']:.4g}"]
    assert len((trained / "metrics.jsonl").read_text().splitlines()) == 3


def test_eval_resumes_and_score_agrees(world, trained, capsys):
    base = ["eval", "--workdir", trained, "--benchmark", "scienceqa", "--data", world / "questions.jsonl"]
    assert run(*base, "--limit", 4, "--config.eval.batch_size=4") == 0
    assert "ranked" not in capsys.readouterr().out
    assert run(*base, "--ranked", "--config.eval.batch_size=4") == 0
    shown = capsys.readouterr().out
    predictions = trained / "eval" / "scienceqa.jsonl"
    assert "scienceqa: 12 questions" in shown and "accuracy" in shown and "ranked" in shown
    assert "in the requested format" in shown and "truncated at the token limit" in shown
    assert len(predictions.read_text().splitlines()) == 12
    assert run("score", "--predictions", predictions) == 0
    assert capsys.readouterr().out == shown
    assert "accuracy" in json.loads(predictions.with_suffix(".score.json").read_text())
    assert run(*base, "--limit", 4) == 0
    assert "scienceqa: 4 of 12 questions" in capsys.readouterr().out
    assert run(*base, "--limit", 2, "--max-new-tokens", 3) == 0
    shown = capsys.readouterr()
    assert "scienceqa: 2 of 12 questions" in shown.out and len(predictions.read_text().splitlines()) == 2
    assert run(*base, "--limit", 2) == 0
    assert len(predictions.read_text().splitlines()) == 12


def test_a_model_is_identified_by_its_content_and_not_by_its_path(world, trained, tmp_path, monkeypatch):
    """Under another spelling or path the same run resumes its answers; a retrained run does not."""
    out = tmp_path / "p.jsonl"
    base = ["eval", "--benchmark", "scienceqa", "--data", world / "questions.jsonl", "--limit", 2, "--out", out]
    assert run(*base, "--workdir", trained) == 0
    before = out.read_text()
    moved = tmp_path / "moved"
    shutil.copytree(trained, moved)
    monkeypatch.chdir(trained.parent)
    for spelling in (trained.name, f"./{trained.name}/", moved):
        assert run(*base, "--workdir", spelling) == 0
    assert out.read_text() == before
    assert run("train", "--config", world / "tiny.py", "--workdir", tmp_path / "anew", "--config.seed=1") == 0
    assert run(*base, "--workdir", tmp_path / "anew") == 1
    assert out.read_text() == before


def test_a_checkpoint_saved_again_has_another_mark(tmp_path):
    """Even if step and config are the same."""

    def save(workdir, value):
        checkpoints = Checkpoints(workdir)
        checkpoints.save(1, {"trained": {"w": np.full(4, value, np.float32)}, "frozen": {}}, {})
        checkpoints.wait()
        checkpoints.close()
        return content_mark(workdir, 1)

    first = save(tmp_path / "run", 0.0)
    (tmp_path / "run").rename(tmp_path / "moved")
    assert content_mark(tmp_path / "moved", 1) == first
    assert save(tmp_path / "run", 1.0) != first


def test_generate_answers(world, trained, capsys):
    argv = ["generate", "--workdir", trained, "--image", world / "0.png", "--prompt", "Which colour is it?"]
    assert run(*argv) == 0
    first = capsys.readouterr().out
    assert run(*argv) == 0
    assert capsys.readouterr().out == first
    assert run("generate", "--workdir", trained, "--image", world / "none.png", "--prompt", "x") == 1
    assert "none.png: there is no such file" in capsys.readouterr().err


def test_extract_and_probe(world, trained, capsys):
    pack = world / "pack"
    assert run("extract", "--workdir", trained, "--out", pack) == 0
    numbers = {}
    for source in (f"run:{trained}", f"pack:{pack}"):
        out = world / "classify.json"
        argv = ["probe", "classify", "--encoder", source, "--data", world / "classes", "--out", out]
        assert run(*argv) == 0
        numbers[source] = json.loads(out.read_text())["accuracy"]
    assert len(set(numbers.values())) == 1
    assert (
        run("probe", "classify", "--encoder", f"pack:{pack}", "--data", world / "classes", "--features", "projector")
        == 0
    )
    argv = ["probe", "segment", "--encoder", f"pack:{pack}", "--data", world / "masks", "--classes", "red,green,blue"]
    assert run(*argv, "--seeds", 1) == 0
    assert "mean IoU" in capsys.readouterr().out


def test_align(world, trained, capsys):
    features = np.random.default_rng(0).normal(size=(12, 2, 8)).astype(np.float32)
    np.save(world / "text.npy", features)
    argv = ["probe", "align", "--encoder", f"run:{trained}", "--data", world / "data.json"]
    assert run(*argv, "--text-features", world / "text.npy", "--k", 3) == 0
    shown = capsys.readouterr().out
    assert "alignment 0." in shown and "95 % interval of these two layers [" in shown and "mutual_knn, k = 3" in shown
    out = world / "align.json"
    for options in (["--pool", "last", "--clamp", "items"], ["--metric", "cka", "--clamp", "none"]):
        assert run(*argv, "--text-model", f"run:{trained}", *options, "--k", 3, "--out", out) == 0
        record = json.loads(out.read_text())
        assert np.shape(record["table"]) == (2, 3) and record["low"] <= record["score"] <= record["high"]
    assert "cka\n" in capsys.readouterr().out
    np.save(world / "text.npy", features[:5])
    assert run(*argv, "--text-features", world / "text.npy") == 1
    assert "[12, layers, width]" in capsys.readouterr().err


def test_gradient_maps_of_both_losses_differ(world, trained):
    base = ["probe", "gradmap", "--workdir", trained, "--image", world / "0.png", "--prompt", "Which colour is it?"]
    assert run(*base, "--answer", "It is red.", "--out", world / "sft.png") == 0
    assert run(*base, "--answer", "It is red.", "--rejected", "It is blue.", "--out", world / "dpo.png") == 0
    sft, dpo = (np.load(world / f"{name}.npy") for name in ("sft", "dpo"))
    assert sft.shape == dpo.shape == (2, 2) and not np.allclose(sft / sft.sum(), dpo / dpo.sum())
    assert Image.open(world / "dpo.png").size == (384, 384)


@pytest.mark.heavy
def test_maps_of_every_kind_are_scored_against_an_object(world, trained, capsys):
    base = ["probe", "gradmap", "--workdir", trained, "--image", world / "0.png", "--prompt", "Which colour is it?"]
    base += ["--answer", "It is red.", "--out", world / "map.png"]
    mask = np.zeros((16, 16), np.uint8)
    mask[:8, :8] = 255  # the first of four patches
    Image.fromarray(mask).save(world / "mask.png")
    records = {}
    for name, options in {
        "mask": ["--mask", world / "mask.png"],
        "box": ["--box", "0,0,8,8"],
        "gradcam": ["--method", "gradcam", "--layer", 0, "--box", "0,0,4,8", "--box", "4,0,8,8"],
        "rollout": ["--method", "rollout", "--layer", "all"],
        "pair": ["--rejected", "It is blue.", "--encoding", "separate", "--gradients", "--mask", world / "mask.png"],
    }.items():
        assert run(*base, *options) == 0
        records[name] = json.loads((world / "map.json").read_text())
        if name == "rollout":
            assert np.load(world / "map.npy").shape == (2, 2, 2)
            assert Image.open(world / "map.png").size == (768, 384)
    assert records["mask"] == records["box"]
    (score,) = records["mask"]["scores"]
    (published,) = records["pair"]["scores"]
    assert score["area"] == 0.25 and score["iou"] >= 0.25 and set(score) == {"hit", "energy", "iou", "area", "entropy"}
    assert published == pytest.approx(score, rel=1e-4)  # one encoding for each answer: the map without the rejected one
    (cam,), rolled = records["gradcam"]["scores"], records["rollout"]["scores"]
    assert cam["area"] == 0.25 and cam != score and [set(one) for one in rolled] == [{"entropy"}] * 2
    gradients = records["pair"]["gradients"]
    assert set(gradients["cosine"]) == {"vision/embed", "vision/pos_embed", *(f"vision/blocks/{i}" for i in range(2)),
                                        "encoder"}  # fmt: skip
    assert all(-1 <= value <= 1 for value in gradients["cosine"].values()) and min(gradients["sft"].values()) > 0
    shown = capsys.readouterr().out
    assert "gradient in" in shown and "vision/blocks/1" in shown and "energy" in shown


def test_export_and_import_give_the_same_weights(world, trained, capsys):
    folder, again = world / "hf", world / "imported"
    assert run("export-hf", "--workdir", trained, "--out", folder) == 0
    assert run("import-hf", "--folder", folder, "--workdir", again) == 0
    argv = ["--image", world / "0.png", "--prompt", "Which colour is it?", "--max-new-tokens", 6]
    capsys.readouterr()
    answers = []
    for workdir in (trained, again):
        assert run("generate", "--workdir", workdir, *argv) == 0
        answers.append(capsys.readouterr().out)
    assert answers[0] == answers[1]
    assert run("export-hf", "--workdir", trained, "--what", "encoder", "--out", world / "siglip") == 0
    assert run("import-hf", "--folder", world / "siglip", "--workdir", world / "siglip_pack") == 0
    assert run("probe", "classify", "--encoder", f"hf:{world / 'siglip'}", "--data", world / "classes") == 0
    assert run("import-hf", "--folder", folder, "--workdir", again) == 1
    assert "is not empty" in capsys.readouterr().err


@pytest.mark.parametrize("system", ["", "It's {brief}."])
def test_import_keeps_the_system_text(world, trained, tmp_path, capsys, system):
    """An exported folder keeps it; a template of which no answer can be scored is an error."""
    run_again = tmp_path / "run"
    shutil.copytree(trained, run_again)
    config = json.loads((run_again / "config.json").read_text())
    config["tokenizer"]["system"] = system
    (run_again / "config.json").write_text(json.dumps(config))
    assert run("export-hf", "--workdir", run_again, "--out", tmp_path / "hf") == 0
    assert run("import-hf", "--folder", tmp_path / "hf", "--workdir", tmp_path / "back") == 0
    assert json.loads((tmp_path / "back" / "config.json").read_text())["tokenizer"]["system"] == system
    (tmp_path / "hf" / "chat_template.jinja").write_text("{{ messages[0].content }}")
    assert run("import-hf", "--folder", tmp_path / "hf", "--workdir", tmp_path / "other") == 1
    assert "tokenizer.chat_template: the chat template leaves out" in capsys.readouterr().err


@pytest.fixture(scope="module")
def encoder_run(world):
    """A run of stage 0."""
    changes = ["--config.objective.name=contrastive", "--config.train.steps=1", "--config.name=zero"]
    assert run("train", "--config", world / "tiny.py", "--workdir", world / "zero", *changes) == 0
    return world / "zero"


@pytest.mark.heavy
def test_export_of_stage_0_and_over_a_folder(world, trained, encoder_run, tmp_path, capsys):
    out = tmp_path / "hf"
    for extra in ((), ("--what", "decoder")):
        assert run("export-hf", "--workdir", encoder_run, "--out", out, *extra) == 1
        err = capsys.readouterr().err
        assert "is a run of stage 0" in err and "--what encoder" in err and err.count("\n") == 1
    argv = ["export-hf", "--workdir", encoder_run, "--what", "encoder", "--out", out]
    assert run(*argv) == 0
    assert "All of it was trained" in (out / "README.md").read_text()
    assert run("probe", "classify", "--encoder", f"hf:{out}", "--data", world / "classes") == 0
    capsys.readouterr()
    assert run(*argv) == 1
    assert "is not empty; choose another folder, or add --overwrite" in capsys.readouterr().err
    assert run(*argv, "--overwrite") == 0
    shutil.copytree(trained, tmp_path / "in" / "run")
    for taken in (tmp_path / "in", tmp_path / "in" / "run"):
        assert run("export-hf", "--workdir", tmp_path / "in" / "run", "--out", taken, "--overwrite") == 1
        assert "is not empty and was not written by this command" in capsys.readouterr().err
    (out / "notes.txt").write_text("mine")
    assert run(*argv, "--overwrite") == 1
    assert "did not write or that were changed since (notes.txt)" in capsys.readouterr().err
    assert (out / "notes.txt").read_text() == "mine" and (tmp_path / "in" / "run" / "config.json").exists()


@pytest.mark.heavy
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_saves_and_the_same_command_resumes(world, tmp_path, number):
    """Exit code 143 or 129 and a checkpoint; started again, the run ends as if it had not been stopped."""
    argv = ["train", "--config", str(world / "tiny.py"), "--workdir", str(tmp_path / "run"), "--config.train.steps=150"]
    command = [sys.executable, "-m", "pivot_jax.cli", *argv]
    log = tmp_path / "run" / "metrics.jsonl"
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env=_env()) as process:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and not (log.exists() and log.read_text().count("\n") >= 2):
            time.sleep(0.05)
        process.send_signal(number)
        _, err = process.communicate(timeout=120)
    assert process.returncode == 128 + number, err
    assert "run the same command again to continue" in err
    stopped = json.loads(log.read_text().splitlines()[-1])["step"]
    assert stopped < 150
    assert subprocess.run(command, capture_output=True, timeout=300, env=_env()).returncode == 0
    steps = [json.loads(line)["step"] for line in log.read_text().splitlines()]
    assert steps == list(range(1, 151))


def _env() -> dict[str, str]:
    return dict(os.environ, XLA_FLAGS="", PYTHONPATH=str(Path(__file__).resolve().parents[1]))
