"""Every notebook runs from top to bottom, draws its figures, and says what it should."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from tests.tiny import hf

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))
SAYS = {
    "import_tune_export": ("after, colour: ", "merged: ", "adapter: ", "12 of 12 answers are the same"),
    "evaluation_scheme": ("3 runs, 1080 responses each", "did you mean 'text'", "new minus old", "within questions"),
    "online_rl": (
        "same responses: True",
        "after minus before, on the same 96 questions",
        "reflection on held-out prompts",
    ),
    "pytorch": ("trl.DPOTrainer", "loss: at most", "TRL has no twin of this run"),
    "sft_and_dpo": (
        "DPO      prefers the chosen answer",
        "Detectable with 3 seeds and 600 images",
        "moved the features by",
    ),
    "quickstart": ("did you mean 'optimizer.clip'", "with the image:", "accuracy"),
    "what_an_encoder_sees": ("CHOSEN ON TEST", "miou: trained − untrained", "after scaling", "by chance"),
}
FIGURES = {
    "evaluation_scheme": 1,
    "import_tune_export": 1,
    "online_rl": 4,
    "pytorch": 1,
    "quickstart": 3,
    "sft_and_dpo": 2,
    "what_an_encoder_sees": 4,
}
SHORT = ("evaluation_scheme",)


def read(name: str):
    return nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)


def code(notebook) -> list:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def executed(notebook, folder: Path, monkeypatch) -> list:
    """Outputs of the cells, run in a folder of their own."""
    monkeypatch.setenv("XLA_FLAGS", "")  # one device, as a reader has
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("TMPDIR", str(folder))
    resources = {"metadata": {"path": str(folder)}}
    NotebookClient(notebook, timeout=900, kernel_name="python3", resources=resources).execute()
    return [output for cell in code(notebook) for output in cell.outputs]


def printed(outputs: list) -> str:
    return "".join(output.get("text", "") for output in outputs)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in SHORT else pytest.mark.heavy) for name in NOTEBOOKS]
)
def test_it_runs(tmp_path, monkeypatch, name):
    outputs = executed(read(name), tmp_path, monkeypatch)
    assert sum("image/png" in output.get("data", {}) for output in outputs) == FIGURES[name]
    for words in SAYS[name]:
        assert words in printed(outputs)


@pytest.mark.heavy
def test_sft_and_dpo_take_another_encoder(tmp_path, monkeypatch):
    """A CLIP folder for images of another size and family than the notebook's own, in runs of a few steps."""
    hf.save(hf.encoder("clip_vision_model"), tmp_path / "clip")
    changes = {
        'ENCODER = ""': f'ENCODER = "hf:{tmp_path / "clip"}"',
        '{"stage0": 80, "stage1": 300, "post": 80}': '{"stage0": 1, "stage1": 2, "post": 2}',
        "range(3 if": "range(2 if",
        "sizes if SMALL": "{name: max(60, size // 20) for name, size in sizes.items()} if SMALL",
    }
    notebook = read("sft_and_dpo")
    for old, new in changes.items():
        (cell,) = (cell for cell in code(notebook) if old in cell.source)
        cell.source = cell.source.replace(old, new)
    said = printed(executed(notebook, tmp_path, monkeypatch))
    assert "'family': 'clip'" in said and "Detectable with 2 seeds and 60 images" in said and "SFT moved" in said


@pytest.mark.heavy
def test_the_other_model_of_the_import(tmp_path, monkeypatch):
    """Qwen2.5-VL, whose processor in transformers needs torchvision; without it the notebook says so."""
    notebook = read("import_tune_export")
    cells = [cell for cell in code(notebook) if 'RANDOM = "llava"' in cell.source]
    assert len(cells) == 1
    cells[0].source = cells[0].source.replace('RANDOM = "llava"', 'RANDOM = "qwen2_5_vl"')
    said = printed(executed(notebook, tmp_path, monkeypatch))
    assert "after, colour: " in said and "qwen2_5_vl: vision" in said
    if importlib.util.find_spec("torchvision"):
        assert said.count("12 of 12 answers are the same") == 2
    else:
        assert "to load the folder in transformers: pip install torch torchvision" in said


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_no_outputs_are_committed(name):
    assert all(not cell.outputs for cell in code(read(name)))


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_it_uses_the_public_api_only(name):
    text = "\n".join(cell.source for cell in code(read(name)))
    assert "import pivot_jax as pj" in text and "from pivot_jax" not in text and "pivot_jax." not in text
