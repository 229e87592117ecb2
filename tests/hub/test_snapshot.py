"""Models by name: a folder first, then what was downloaded, then the network, or one line that says what to do."""

from __future__ import annotations

import huggingface_hub
import numpy as np
import pytest
from huggingface_hub import errors

from pivot_jax import hub
from pivot_jax.errors import UserError
from pivot_jax.models import zoo
from pivot_jax.train.source import load_params
from tests.tiny import hf

NAME = "google/siglip2-so400m-patch16-384"


@pytest.fixture
def encoder(tmp_path):
    hf.vision_model().save_pretrained(tmp_path / "encoder")
    return tmp_path / "encoder"


def test_dimensions_need_no_network():
    assert (zoo.dimensions(NAME).width, zoo.dimensions("Qwen/Qwen2.5-1.5B-Instruct").width) == (1152, 1536)
    with pytest.raises(UserError, match=r"'Qwen/Qwen3-7B' is unknown; did you mean 'Qwen/Qwen3-1.7B'\?"):
        zoo.dimensions("Qwen/Qwen3-7B")


def test_a_folder_is_itself(encoder, monkeypatch):
    """Also one whose path looks like a name."""
    monkeypatch.chdir(encoder.parent.parent)
    model, params = hub.from_hub(f"{encoder.parent.name}/encoder")
    assert model.vision.width == 24 and list(params) == ["vision"]


def test_a_name_is_downloaded(encoder, monkeypatch):
    """Whatever takes a folder takes the name too, and pickles are left where they are."""
    asked = []

    def download(name, allow_patterns):
        asked.append(name)
        assert "*.bin" not in allow_patterns and "*.safetensors" in allow_patterns
        return str(encoder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    expected = hub.load_params(encoder)["vision"]["pos_embed"]
    for params in (hub.from_hub(NAME)[1], hub.load_params(NAME), load_params(f"hf:{NAME}")):
        np.testing.assert_array_equal(params["vision"]["pos_embed"], expected)
    assert hub.read_config(NAME).vision.width == 24 and set(asked) == {NAME}


def _answer(kind):
    """Made without the answer of a server, which its constructor asks for."""
    error = kind.__new__(kind)
    Exception.__init__(error, "no")
    return error


@pytest.mark.parametrize(
    ("error", "offline", "message"),
    [
        (
            errors.LocalEntryNotFoundError("not in the cache"),
            "1",
            "HF_HUB_OFFLINE is set, and no download of it is kept",
        ),
        (errors.LocalEntryNotFoundError("no route\nto it"), "0", r"the hub cannot be reached \(no route\)"),
        (errors.HTTPError("refused"), "0", r"the hub cannot be reached \(refused\)"),
        (_answer(errors.RepositoryNotFoundError), "0", "no such model on the hub"),
        (_answer(errors.GatedRepoError), "0", "asks for its licence to be accepted"),
    ],
)
def test_what_keeps_a_name_from_being_downloaded(monkeypatch, error, offline, message):
    def download(*_, **__):
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    monkeypatch.setenv("HF_HUB_OFFLINE", offline)
    with pytest.raises(UserError, match=message) as raised:
        hub.from_hub(NAME)
    assert "\n" not in str(raised.value) and f"hf download {NAME} --local-dir DIR" in str(raised.value)


def test_offline_says_so_by_itself():
    """The tests run with HF_HUB_OFFLINE=1."""
    with pytest.raises(UserError, match=r"^'google/siglip2-.*': there is no such folder, HF_HUB_OFFLINE is set"):
        load_params(f"hf:{NAME}")
