"""Every notebook runs from top to bottom, draws its figures, and says what it should."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))
SAYS = {
    "import_tune_export": ("after, colour: ", "merged: ", "adapter: ", "12 of 12 answers are the same"),
    "evaluation_scheme": ("3 runs, 1080 responses each", "did you mean 'text'", "new minus old", "within questions"),
    "pytorch": ("trl.DPOTrainer", "loss: at most", "TRL has no twin of this run"),
    "what_an_encoder_sees": ("CHOSEN ON TEST", "miou: trained − untrained", "after scaling", "by chance"),
    "quickstart": ("did you mean 'optimizer.clip'", "with the image:", "accuracy"),
}
FIGURES = {"evaluation_scheme": 1, "import_tune_export": 1, "pytorch": 1, "quickstart": 3, "what_an_encoder_sees": 4}
SHORT = ("evaluation_scheme",)


def read(name: str):
    return nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)


def code(notebook) -> list:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in SHORT else pytest.mark.heavy) for name in NOTEBOOKS]
)
def test_it_runs(tmp_path, monkeypatch, name):
    figures, printed = executed(read(name), tmp_path, monkeypatch)
    assert figures == FIGURES[name]
    for words in SAYS[name]:
        assert words in printed


def executed(notebook, folder, monkeypatch) -> tuple[int, str]:
    """The number of its figures, and what it prints."""
    monkeypatch.setenv("XLA_FLAGS", "")  # one device, as a reader has
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("TMPDIR", str(folder))
    resources = {"metadata": {"path": str(folder)}}
    NotebookClient(notebook, timeout=900, kernel_name="python3", resources=resources).execute()
    outputs = [output for cell in code(notebook) for output in cell.outputs]
    figures = sum("image/png" in output.get("data", {}) for output in outputs)
    return figures, "".join(output.get("text", "") for output in outputs)


@pytest.mark.heavy
def test_the_other_model_of_the_import(tmp_path, monkeypatch):
    """Qwen2.5-VL, whose processor in transformers needs torchvision; without it the notebook says so."""
    notebook = read("import_tune_export")
    cells = [cell for cell in code(notebook) if 'RANDOM = "llava"' in cell.source]
    assert len(cells) == 1
    cells[0].source = cells[0].source.replace('RANDOM = "llava"', 'RANDOM = "qwen2_5_vl"')
    _, printed = executed(notebook, tmp_path, monkeypatch)
    assert "after, colour: " in printed and "qwen2_5_vl: vision" in printed
    if importlib.util.find_spec("torchvision"):
        assert printed.count("12 of 12 answers are the same") == 2
    else:
        assert "to load the folder in transformers: pip install torch torchvision" in printed


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_no_outputs_are_committed(name):
    assert all(not cell.outputs for cell in code(read(name)))


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_it_uses_the_public_api_only(name):
    text = "\n".join(cell.source for cell in code(read(name)))
    assert "import pivot_jax as pj" in text and "from pivot_jax" not in text and "pivot_jax." not in text
