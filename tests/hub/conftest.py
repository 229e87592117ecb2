"""A tiny LLaVA checkpoint of transformers."""

from __future__ import annotations

import pytest

from tests.tiny import hf


@pytest.fixture(scope="session")
def llava(tmp_path_factory):
    """Folder of a LLaVA with an output matrix of its own; tests only read it."""
    folder = tmp_path_factory.mktemp("llava")
    hf.llava_model(text=dict(tie_word_embeddings=False)).save_pretrained(folder)
    return folder
