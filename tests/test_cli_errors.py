"""What the commands say of bad input: one line with the reason and the fix, before any work."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from pivot_jax.cli import inputs, outputs
from pivot_jax.errors import UserError
from tests.tiny import commands

run = commands.run


IMAGE = ["--image", "{world}/0.png"]
GRADMAP = ["probe", "gradmap", "--workdir", "{world}/run", "--prompt", "Q", "--answer", "A"]
SEGMENT = ["probe", "segment", "--encoder", "pack:nowhere", "--data", "{world}/masks"]
CLASSIFY = ["probe", "classify", "--encoder", "run:{world}/run", "--data", "{world}/classes"]
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
    ([*GRADMAP, *IMAGE, "--out", "g.png", "--gradients"], "--gradients: compares two answers; add --rejected"),
    ([*GRADMAP, *IMAGE, "--out", "g.png", "--encoding", "separate"], "--encoding separate: compares two answers"),
    ([*GRADMAP, *IMAGE, "--out", "g.png", "--layer", "2"], "layer 2: {world}/run@3 computes blocks 0 to 1"),
    ([*GRADMAP, *IMAGE, "--out", "g.png", "--box", "0,0,17,4"], "--box 0,0,17,4: not in the image of 16x16 pixels"),
    ([*GRADMAP, *IMAGE, "--out", "g.png", "--mask", "{world}/tiny.py"], "--mask: image {world}/tiny.py cannot be read"),
    ([*SEGMENT, "--classes", "{world}/tiny.pi"], "did you mean '{world}/tiny.py'?"),
    ([*SEGMENT, "--classes", "{world}/0.png"], "not a text file"),
    ([*SEGMENT, "--classes", "red,green,red"], "'red' is repeated"),
    ([*SEGMENT, "--classes", "red,green", "--out", "{world}"], "is a folder; name a file"),
    ([*ALIGN, "--data", "{world}/data.json", "--k", "12"], "an item has at most 11 others"),
    ([*ALIGN, "--data", "{world}/data.json", "--k", "1", "--metric", "cknna"], "use k of at least 2"),
    ([*ALIGN, "--data", "{world}/dat.json"], "did you mean '{world}/data.json'?"),
    ([*ALIGN, "--data", "{world}/questions.jsonl"], "'conversations' is missing"),
    (["probe", "classify", "--encoder", "{world}/run", "--data", "{world}/classes"], "did you mean 'run:{world}/run'?"),
    (["probe", "classify", "--encoder", "run:{world}/run:x", "--data", "{world}/classes"], "leave out ':x'"),
    (["probe", "classify", "--encoder", "pack:{world}/run", "--data", "{world}/classes"], "it is a run"),
    (["probe", "classify", "--encoder", "hf:{world}/run", "--data", "{world}/classes"], "it is a run"),
    ([*CLASSIFY, "--pool", "class"], "is a siglip encoder, which has no class token; use mean"),
    ([*CLASSIFY, "--pool", "attention", "--layer", "0"], "leave out layer 0"),
    ([*CLASSIFY, "--layer", "9"], "computes blocks 0 to 1; name one of them"),
    ([*CLASSIFY, "--method", "knn", "--k", "99"], "k = 99: there are 10 training images; use a smaller k"),
    ([*CLASSIFY, "--per-class", "9"], "class blue has 3 examples, not 9; ask for fewer"),
    ([*CLASSIFY, "--cache", "{world}/0.png"], "0.png"),
    ([*CLASSIFY[:-1], "{world}/masks"], "masks: 0 classes; a probe needs two or more"),
    ([*SEGMENT[:2], *CLASSIFY[2:4], *SEGMENT[4:]], "names no classes; name them with --classes"),
    ([*GENERATE, "--image", "{world}/tiny.py"], "give an image, such as a PNG"),
    ([*GENERATE, *IMAGE, *IMAGE], "2 images, but this model was trained with at most 1 in a row"),
    ([*GENERATE, *IMAGE, "--prompt", "<image> Q"], "leave out '<image>'"),
    (["generate", "--workdir", "{world}/runn"], "did you mean '{world}/run'?"),
    ([*EVAL, "scienceqa", "--data", "{world}/classes"], "holds no data.jsonl (it holds: test, train)"),
    ([*EVAL, "mathvision", "--data", "{world}/questions.jsonl", "--ranked"], "--ranked (ranked=…): mathvision"),
    (["score", "--predictions", "{world}/tiny.py"], "not a predictions file"),
    (["score", "--predictions", "{world}"], "questions.jsonl, line 1: field 'question_id' is missing"),
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


@pytest.mark.parametrize(
    ("extra", "says"),
    [
        (["--benchmark", "mmpv"], "benchmark 'mmpv' is unknown"),
        (["--benchmark", "scienceqa", "--step", "7"], "no checkpoint of step 7"),
        (["--benchmark", "scienceqa", "--config.model.vision.width=8"], "only eval.* and seed can be set"),
        (["--benchmark", "scienceqa", "--config.data.image.preset=clip"], "only eval.* and seed can be set"),
    ],
)
def test_eval_errors(world, trained, capsys, extra, says):
    assert run("eval", "--workdir", trained, "--data", world / "questions.jsonl", *extra) == 1
    assert says in capsys.readouterr().err


def test_workdir_of_another_config_is_an_error(world, trained, capsys):
    argv = ["train", "--config", world / "tiny.py", "--workdir", trained, "--config.optimizer.clip=0.5"]
    assert run(*argv) == 1
    err = capsys.readouterr().err
    assert "belongs to another config (optimizer.clip: 1.0 → 0.5)" in err and err.count("\n") == 1
    assert f"--config={trained / 'config.json'}" in err


COMMANDS = {
    "train": (["train", "--config", "{w}/tiny.py"], "--workdir"),
    "demo": (["demo"], "--workdir"),
    "eval": (["eval", "--workdir", "{w}/run", "--benchmark", "scienceqa", "--data", "{w}/questions.jsonl"], "--out"),
    "extract": (["extract", "--workdir", "{w}/run"], "--out"),
    "export": (["export-hf", "--workdir", "{w}/run"], "--out"),
    "classify": (["probe", "classify", "--encoder", "run:{w}/run", "--data", "{w}/classes"], "--out"),
    "robustness": (["probe", "robustness", "--encoder", "run:{w}/run", "--data", "{w}/classes"], "--out"),
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


FILES = [*(name for name in COMMANDS if name not in ("train", "demo", "extract", "export", "eval")), "report"]


@pytest.mark.parametrize("command", FILES)
@pytest.mark.parametrize("content", [b"mine", b'{"accuracy": 1}', b"<html></html>"])
def test_a_file_of_the_user_is_never_replaced(world, trained, tmp_path, capsys, monkeypatch, command, content):
    """Every command that writes a file that an option names: found before any work."""
    words, option = (COMMANDS | {"report": (["report", "--workdir", "{w}/run"], "--out")})[command]
    path = tmp_path / "mine.png"
    path.write_bytes(content)
    monkeypatch.setattr("pivot_jax.train.open.open_run", None)
    monkeypatch.setattr("pivot_jax.train.open.open_encoder", None)
    monkeypatch.setattr("pivot_jax.plan.run.plan", None)
    assert run(*(word.format(w=world) for word in words), option, path) == 1
    err = capsys.readouterr().err
    assert f"{option} {path} is there, and `pivot-jax {' '.join(words[: 2 if words[0] == 'probe' else 1])}`" in err
    assert path.read_bytes() == content and [one.name for one in tmp_path.iterdir()] == ["mine.png"]


def test_the_numbers_of_a_map_replace_no_array_of_the_user(world, trained, tmp_path, capsys):
    np.save(tmp_path / "x.npy", np.arange(3))
    words = [word.format(w=world) for word in COMMANDS["gradmap"][0]]
    assert run(*words, "--out", tmp_path / "x.png") == 1
    assert "its x.npy is there" in capsys.readouterr().err
    assert np.load(tmp_path / "x.npy").tolist() == [0, 1, 2]
    (tmp_path / "x.npy").unlink()
    (tmp_path / "x.json").write_text('{"mine": 1}')
    assert run(*words, "--out", tmp_path / "x.png") == 1
    assert "its x.json is there" in capsys.readouterr().err and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("suffix", inputs.IMAGE_SUFFIXES)
def test_what_a_command_wrote_it_replaces(tmp_path, suffix):
    image, numbers = tmp_path / f"x{suffix}", tmp_path / "x.json"
    outputs.image(image, "pivot-jax probe gradmap", np.zeros((4, 4, 3), np.uint8))
    outputs.record(numbers, "pivot-jax probe align", {"score": 1.0})
    assert outputs.file(image, "--out", command="pivot-jax probe gradmap") == image
    assert outputs.file(numbers, "--out", command="pivot-jax probe align") == numbers
    with pytest.raises(UserError, match="`pivot-jax probe classify` did not write it"):
        outputs.file(numbers, "--out", command="pivot-jax probe classify")
    outputs.record(numbers, "pivot-jax plan", [{"rows": 1}, {"rows": 2}])
    assert outputs.file(numbers, "--json", command="pivot-jax plan") == numbers


def test_a_score_replaces_no_other_file(world, trained, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("pivot_jax.train.open.open_run", None)
    (tmp_path / "a.score.json").write_text('{"mine": 1}')
    words = [word.format(w=world) for word in COMMANDS["eval"][0]]
    assert run(*words, "--out", tmp_path / "a.jsonl") == 1
    assert "a.score.json is not a score" in capsys.readouterr().err
    assert (tmp_path / "a.score.json").read_text() == '{"mine": 1}'


def test_the_demo_writes_into_no_folder_of_the_user(tmp_path, capsys):
    (tmp_path / "thesis.tex").write_text("mine")
    assert run("demo", "--workdir", tmp_path) == 1
    assert "holds files that no study wrote (thesis.tex)" in capsys.readouterr().err
    assert [one.name for one in tmp_path.iterdir()] == ["thesis.tex"]
