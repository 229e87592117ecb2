"""Parameters that are spread over eight devices export as those of one device do."""

from __future__ import annotations

import contextlib

import jax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from pivot_jax import hub, rules
from tests.hub.test_export import IDS
from tests.tiny import hf


def test_sharded_parameters_export_the_same_bytes(tmp_path, monkeypatch):
    """From eight devices, in many files; the host holds one layer of one parameter at once."""
    hf.llava_model(seed=1).save_pretrained(tmp_path / "start")
    params, cfg = hub.load_params(tmp_path / "start"), hub.read_config(tmp_path / "start").mllm
    mesh = jax.make_mesh((4, 2), ("fsdp", "tensor"))
    spread = jax.tree.map(
        lambda x: jax.device_put(
            x, NamedSharding(mesh, P(None, "fsdp") if x.ndim > 1 and x.shape[1] % 4 == 0 else P())
        ),
        params,
    )
    largest, gathered = 0, hub.tensors._on_host

    def note(array, layer):
        nonlocal largest
        found = gathered(array, layer)
        largest = max(largest, found.size)
        return found

    monkeypatch.setattr(hub.save, "SHARD_BYTES", 20_000)
    monkeypatch.setattr(hub.tensors, "_on_host", note)
    shown = []
    for name, tree in (("one", params), ("spread", spread)):
        with_bar = dict(show=lambda total: contextlib.nullcontext(shown.append)) if name == "spread" else {}
        hub.export_mllm(tree, cfg, tmp_path / name, hub.ExportOptions(**with_bar), IDS)
    files = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert len(files) > 5
    for name in files:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "spread" / name).read_bytes(), name
    flat = rules.flatten(params)
    assert largest == max(x.size // (x.shape[0] if "/blocks/" in path else 1) for path, x in flat.items())
    assert sum(shown) == sum(x.nbytes for x in flat.values())
