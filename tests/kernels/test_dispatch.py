"""The table of measured attention backends, and the backend that ``auto`` selects from it."""

from __future__ import annotations

import json
import logging

import jax.numpy as jnp
import pytest

from pivot_jax.kernels import dispatch
from pivot_jax.kernels.attention import AUTO, BACKENDS, attention
from pivot_jax.kernels.tiles import Case

FASTEST = {
    (64, True, "segments", "bfloat16"): "pallas_gpu",
    (128, True, "segments", "bfloat16"): "pallas_gpu",
    (72, False, "none", "bfloat16"): "cudnn",
}
LONG = Case(2048, 2048, 6, 128, "bfloat16", True, "segments")


@pytest.fixture
def table(tmp_path, monkeypatch):
    """A file in place of the committed one, with entries for a GPU and for the CPU that the tests run on."""
    file = tmp_path / "choices.json"
    file.write_text("{}")
    monkeypatch.setattr(dispatch, "TABLE", file)
    dispatch.write_table("NVIDIA H200", FASTEST)
    dispatch.write_table("cpu", {(8, True, "none", "float32"): "reference"})
    return file


def test_only_written_entries_are_found(table):
    assert dispatch.fastest("NVIDIA H200", LONG) == "pallas_gpu"
    assert dispatch.fastest("NVIDIA H200", Case(729, 729, 1, 72, "bfloat16", False, "none")) == "cudnn"
    for other in (
        LONG._replace(dtype="float32"),
        LONG._replace(c=80),
        LONG._replace(mask="branches"),
        LONG._replace(causal=False),
        LONG._replace(n=1),  # decoding
        LONG._replace(n=64, m=64),
    ):
        assert dispatch.fastest("NVIDIA H200", other) is None
    assert dispatch.fastest("NVIDIA A100", LONG) is None


def test_widths_of_one_backend_share_an_entry_and_other_kinds_are_kept(table):
    written = json.loads(table.read_text())
    assert [entry["widths"] for entry in written["NVIDIA H200"]] == [[72], [64, 128]]
    dispatch.write_table("NVIDIA H200", {})
    assert dispatch.read_table(table)["NVIDIA H200"] == [] and dispatch.read_table(table)["cpu"]


def test_auto_selects_the_measured_backend_and_logs_it_once(table, monkeypatch, caplog):
    called = []
    for name in ("reference", AUTO["cpu"]):
        monkeypatch.setitem(
            BACKENDS,
            name,
            lambda q, *_, name=name, **__: called.append(name) or q,
        )
    monkeypatch.setattr(dispatch, "_logged", set())
    x = jnp.ones((1, dispatch.LEAST, 1, 8))
    with caplog.at_level(logging.INFO, "pivot_jax"):
        attention(x, x, x, causal=True)
        attention(x, x, x, causal=True)
        attention(x, x, x, causal=False)
    assert called == ["reference", "reference", AUTO["cpu"]]
    assert [line.split(",")[0] for line in caplog.messages] == [
        "attention backend: reference",
        f"attention backend: {AUTO['cpu']}",
    ]


def test_the_committed_table_names_backends_that_exist():
    for entries in json.loads(dispatch.TABLE.read_text()).values():
        for entry in entries:
            assert entry["backend"] in BACKENDS and set(entry) == {"widths", "causal", "mask", "dtype", "backend"}
