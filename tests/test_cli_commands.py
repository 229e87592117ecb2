"""Every command once, on a run of a few steps: what it prints and writes, and its errors."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pivot_jax import cli
from pivot_jax.data.processing.tokenizer import train_bpe
from pivot_jax.train.checkpoint import Checkpoints, content_mark

COLOURS = {"red": (220, 20, 20), "green": (20, 220, 20), "blue": (20, 20, 220)}
QUESTION = "<image>\nWhich colour is it?"


def run(*argv: object) -> int:
    return cli.main([str(word) for word in argv])


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Folder with images, a LLaVA file, a question file, a class folder, masks, a tokenizer and a config."""
    root = tmp_path_factory.mktemp("world")
    rng = np.random.default_rng(0)
    rows, questions = [], []
    for index in range(12):
        name = list(COLOURS)[index % 3]
        noise = rng.integers(-20, 20, (16, 16, 3))
        image = Image.fromarray(np.clip(np.asarray(COLOURS[name]) + noise, 0, 255).astype(np.uint8))
        path = root / f"{index}.png"
        image.save(path)
        turns = [{"from": "human", "value": QUESTION}, {"from": "gpt", "value": f"It is {name}."}]
        rows.append({"id": str(index), "image": path.name, "conversations": turns})
        choices = list(COLOURS)
        questions.append(
            {"id": str(index), "image": path.name, "question": "Which colour?", "choices": choices, "hint": "",
             "answer": "ABC"[index % 3]}
        )  # fmt: skip
        for split in ("train", "test"):
            (root / "classes" / split / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.asarray(image)[:, ::-1] if split == "test" else np.asarray(image)).save(
                root / "classes" / split / name / f"{index}.png"
            )
            (root / "masks" / split).mkdir(parents=True, exist_ok=True)
            (root / "masks" / f"{split}annot").mkdir(parents=True, exist_ok=True)
            image.save(root / "masks" / split / f"{index}.png")
            Image.fromarray(np.full((16, 16), index % 3, np.uint8)).save(
                root / "masks" / f"{split}annot" / f"{index}.png"
            )
    (root / "data.json").write_text(json.dumps(rows))
    (root / "questions.jsonl").write_text("".join(json.dumps(q) + "\n" for q in questions))
    tokenizer = train_bpe([QUESTION, *(row["conversations"][1]["value"] for row in rows)], 320, root / "tokenizer")
    config = {
        "name": "tiny",
        "model.vision": {"image_size": 16, "patch_size": 8, "width": 16, "depth": 3, "heads": 2, "mlp_dim": 32},
        "model.decoder": {"vocab_size": 330, "width": 32, "depth": 2, "heads": 4, "kv_heads": 2, "mlp_dim": 48},
        "tokenizer.path": str(tokenizer),
        "data.sources": ({"format": "llava", "path": str(root / "data.json")},),
        "data.image.size": 16,
        "data.batch_size": 8,
        "data.max_length": 128,
        "train.steps": 3,
        "train.log_every": 1,
        "eval.max_new_tokens": 4,
    }
    (root / "tiny.py").write_text(f"def get_config():\n    return {config!r}\n")
    return root


@pytest.fixture(scope="module")
def trained(world):
    workdir = world / "run"
    assert run("train", "--config", world / "tiny.py", "--workdir", workdir) == 0
    return workdir


def test_train_writes_and_does_not_run_twice(world, trained, capsys):
    lines = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3]
    assert run("train", "--config", world / "tiny.py", "--workdir", trained) == 0
    assert "tiny: step 3 in" in capsys.readouterr().out
    assert len((trained / "metrics.jsonl").read_text().splitlines()) == 3


def test_workdir_of_another_config_is_an_error(world, trained, capsys):
    argv = ["train", "--config", world / "tiny.py", "--workdir", trained, "--config.optimizer.clip=0.5"]
    assert run(*argv) == 1
    err = capsys.readouterr().err
    assert "belongs to another config (optimizer.clip: 1.0 → 0.5)" in err and err.count("\n") == 1


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
    assert "scienceqa: 4 questions" in capsys.readouterr().out
    assert run(*base, "--limit", 2, "--max-new-tokens", 3) == 0
    shown = capsys.readouterr()
    assert "scienceqa: 2 questions" in shown.out and len(predictions.read_text().splitlines()) == 2
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


@pytest.mark.parametrize(
    ("extra", "says"),
    [
        (["--benchmark", "mmpv"], "benchmark 'mmpv' is unknown"),
        (["--benchmark", "scienceqa", "--step", "7"], "no checkpoint of step 7"),
        (["--benchmark", "scienceqa", "--config.model.vision.width=8"], "only eval.* and seed can be set"),
    ],
)
def test_eval_errors(world, trained, capsys, extra, says):
    assert run("eval", "--workdir", trained, "--data", world / "questions.jsonl", *extra) == 1
    assert says in capsys.readouterr().err


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
    assert "alignment 0." in capsys.readouterr().out
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


IMAGE = ["--image", "{world}/0.png"]
GRADMAP = ["probe", "gradmap", "--workdir", "{world}/run", "--prompt", "Q", "--answer", "A"]
SEGMENT = ["probe", "segment", "--encoder", "pack:nowhere", "--data", "{world}/masks"]
ALIGN = ["probe", "align", "--encoder", "run:{world}/run", "--text-features", "{world}/texts.npy"]
GENERATE = ["generate", "--workdir", "{world}/run"]
EVAL = ["eval", "--workdir", "{world}/run", "--benchmark"]
TRAIN = ["train", "--config", "{world}/tiny.py", "--workdir"]
ERRORS = [
    ([*GRADMAP, *IMAGE, "--out", "g.xyz"], "written as .png, .jpg, .jpeg, .webp"),
    ([*GRADMAP, *IMAGE, "--out", "{world}"], "--out {world} is a folder; name a file"),
    ([*GRADMAP, "--out", "g.png", "--image", "missing.png"], "--image missing.png: there is no such file"),
    ([*GRADMAP, "--out", "g.png", "--image", "{world}/tiny.py"], "tiny.py cannot be read (not a"),
    ([*GRADMAP, *IMAGE, "--out", "g.png", "--rejected", "A"], "the same as --answer"),
    ([*SEGMENT, "--classes", "{world}/tiny.pi"], "did you mean '{world}/tiny.py'?"),
    ([*SEGMENT, "--classes", "{world}/0.png"], "not a text file"),
    ([*SEGMENT, "--classes", "red,green,red"], "'red' is repeated"),
    ([*SEGMENT, "--classes", "red,green", "--out", "{world}"], "is a folder; name a file"),
    ([*ALIGN, "--data", "{world}/data.json", "--k", "12"], "an item has at most 11 others"),
    ([*ALIGN, "--data", "{world}/dat.json"], "did you mean '{world}/data.json'?"),
    ([*ALIGN, "--data", "{world}/questions.jsonl"], "'conversations' is missing"),
    (["probe", "classify", "--encoder", "{world}/run", "--data", "{world}/classes"], "did you mean 'run:{world}/run'?"),
    (["probe", "classify", "--encoder", "run:{world}/run:x", "--data", "{world}/classes"], "leave out ':x'"),
    (["probe", "classify", "--encoder", "pack:{world}/run", "--data", "{world}/classes"], "it is a run"),
    (["probe", "classify", "--encoder", "hf:{world}/run", "--data", "{world}/classes"], "it is a run"),
    ([*GENERATE, "--image", "{world}/tiny.py"], "give an image, such as a PNG"),
    ([*GENERATE, *IMAGE, *IMAGE], "give --image once"),
    ([*GENERATE, *IMAGE, "--prompt", "<image> Q"], "leave out '<image>'"),
    (["generate", "--workdir", "{world}/runn"], "did you mean '{world}/run'?"),
    ([*EVAL, "scienceqa", "--data", "{world}/classes"], "holds no data.jsonl (it holds: test, train)"),
    ([*EVAL, "mathvision", "--data", "{world}/questions.jsonl", "--ranked"], "--ranked: mathvision"),
    (["score", "--predictions", "{world}/tiny.py"], "not a predictions file"),
    (["score", "--predictions", "{world}"], "this is a folder"),
    ([*TRAIN, "{world}/0.png"], "is a file; name a folder"),
    ([*TRAIN, "{world}/w", "--config.data.batch_size=16"], "12 usable rows"),
]  # fmt: skip


@pytest.mark.parametrize(("argv", "says"), ERRORS, ids=[f"{argv[0]}-{says[:30]}" for argv, says in ERRORS])
def test_bad_input_is_one_line(world, trained, capsys, argv, says):
    np.save(world / "texts.npy", np.ones((12, 2, 8), np.float32))
    assert run(*(word.format(world=world) for word in argv)) == 1
    err = capsys.readouterr().err.splitlines()
    assert says.format(world=world) in err[-1] and err[-1].startswith(f"pivot-jax {argv[0]}: ")
    assert not any("Traceback" in line or "BytesIO" in line for line in err)


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
def test_import_keeps_the_system_text(world, trained, tmp_path, caplog, system):
    """An exported folder keeps it; with a template that is not ChatML, a warning names the text used instead."""
    run_again = tmp_path / "run"
    shutil.copytree(trained, run_again)
    config = json.loads((run_again / "config.json").read_text())
    config["tokenizer"]["system"] = system
    (run_again / "config.json").write_text(json.dumps(config))
    assert run("export-hf", "--workdir", run_again, "--out", tmp_path / "hf") == 0
    assert run("import-hf", "--folder", tmp_path / "hf", "--workdir", tmp_path / "back") == 0
    assert json.loads((tmp_path / "back" / "config.json").read_text())["tokenizer"]["system"] == system
    assert "chat template" not in caplog.text
    (tmp_path / "hf" / "chat_template.jinja").write_text("{{ messages[0].content }}")
    assert run("import-hf", "--folder", tmp_path / "hf", "--workdir", tmp_path / "other") == 0
    assert "not one that we render, and is not used" in caplog.text and "'You are a helpful assistant.'" in caplog.text


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


COMMANDS = {
    "train": (["train", "--config", "{w}/tiny.py"], "--workdir"),
    "demo": (["demo"], "--workdir"),
    "eval": (["eval", "--workdir", "{w}/run", "--benchmark", "scienceqa", "--data", "{w}/questions.jsonl"], "--out"),
    "extract": (["extract", "--workdir", "{w}/run"], "--out"),
    "export": (["export-hf", "--workdir", "{w}/run"], "--out"),
    "classify": (["probe", "classify", "--encoder", "run:{w}/run", "--data", "{w}/classes"], "--out"),
    "segment": (
        ["probe", "segment", "--encoder", "run:{w}/run", "--data", "{w}/masks", "--classes", "red,green,blue"], "--out"
    ),
    "gradmap": (
        ["probe", "gradmap", "--workdir", "{w}/run", "--image", "{w}/0.png", "--prompt", "x", "--answer", "y"], "--out"
    ),
    "align": (
        ["probe", "align", "--encoder", "run:{w}/run", "--data", "{w}/data.json", "--text-features", "x.npy"], "--out"
    ),
    "plan": (["plan", "--config", "{w}/tiny.py", "--topology", "h100-8"], "--json"),
}  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
def test_paths_that_cannot_be_written_cost_one_line(world, trained, tmp_path, capsys, monkeypatch, command):
    """A file above, a name that is too long, no permission, a file for a folder: checked before any work."""
    words, option = COMMANDS[command]
    argv = [word.format(w=world) for word in words]
    file, link = tmp_path / "file", tmp_path / "link"
    file.write_text("mine")
    link.symlink_to(tmp_path / "nowhere")
    wants_folder = command in ("train", "demo", "extract", "export")
    bad = [file / "x.png", tmp_path / ("x" * 300), file if wants_folder else tmp_path, link / "x.png"]
    bad += [Path("/proc/q/x.png")] if sys.platform == "linux" else []
    monkeypatch.setattr("pivot_jax.train.open.open_run", None)  # a path that is checked too late fails here
    monkeypatch.setattr("pivot_jax.train.open.open_encoder", None)
    before = sorted(tmp_path.iterdir())
    for path in bad:
        assert run(*argv, option, path) == 1, path
        err = capsys.readouterr().err
        assert f"{option} {path} " in err and "name a f" in err and err.count("\n") == 1
    assert sorted(tmp_path.iterdir()) == before and file.read_text() == "mine"


@pytest.mark.heavy
def test_sigterm_saves_and_the_same_command_resumes(world, tmp_path):
    """Exit code 143 and a checkpoint; when it is started again, the run ends as if it had not been stopped."""
    argv = ["train", "--config", str(world / "tiny.py"), "--workdir", str(tmp_path / "run"), "--config.train.steps=150"]
    command = [sys.executable, "-m", "pivot_jax.cli", *argv]
    log = tmp_path / "run" / "metrics.jsonl"
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env=_env()) as process:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and not (log.exists() and log.read_text().count("\n") >= 2):
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=120)
    assert process.returncode == 143, err
    assert "run the same command again to continue" in err
    stopped = json.loads(log.read_text().splitlines()[-1])["step"]
    assert stopped < 150
    assert subprocess.run(command, capture_output=True, timeout=300, env=_env()).returncode == 0
    steps = [json.loads(line)["step"] for line in log.read_text().splitlines()]
    assert steps == list(range(1, 151))


def _env() -> dict[str, str]:
    return dict(os.environ, XLA_FLAGS="", PYTHONPATH=str(Path(__file__).resolve().parents[1]))


def test_the_python_of_the_readme(world, trained, tmp_path):
    """In a process of its own, in another directory than the checkout; with an existing run, image and questions."""
    readme = (Path(__file__).parents[1] / "README.md").read_text()
    ask, work = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    assert len(ask.strip().splitlines()) <= 8 and len(work.strip().splitlines()) <= 12
    fitting = {
        "runs/pivot/stage2_dpo": trained, "cat.jpg": world / "0.png", "configs/pivot/stage2_dpo.py": world / "tiny.py",
        '"mmvp", "data/MMVP"': f'"scienceqa", "{world / "questions.jsonl"}"', "data/imagenet50": world / "classes",
        ", per_class=50": "",
    }  # fmt: skip
    code = ask + work
    for theirs, ours in sorted(fitting.items(), key=lambda pair: -len(pair[0])):
        assert theirs in code, theirs
        code = code.replace(theirs, str(ours))
    code += """
assert features.shape[0] == 1 and features.ndim == 3
assert 0 <= score.value.low <= score.value.high <= 1 and probe.images["test"] > 0
assert logps.sum(1) < 0 and logps.sum(2) < 0
print("done")
"""
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=_env(), capture_output=True, text=True, timeout=600
    )
    assert found.returncode == 0 and found.stdout.rstrip().endswith("done"), found.stderr
    assert (tmp_path / "dpo-hf" / "config.json").exists() and (tmp_path / "runs" / "pivot" / "dpo").is_dir()
