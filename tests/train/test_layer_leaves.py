"""Runs with a leaf per layer: checkpoints, packs, exports and rules are those of stacked layers."""

from __future__ import annotations

import shutil
from types import SimpleNamespace

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from pivot_jax import config as configs
from pivot_jax import hub, rules
from pivot_jax.models import lora, stacking
from pivot_jax.models.stacking import Layers
from pivot_jax.objectives.table import build_objective
from pivot_jax.optim import partition
from pivot_jax.optim.update import build_step
from pivot_jax.parallel.mesh import make_mesh, place_batch
from pivot_jax.train import checkpoint
from pivot_jax.train.checkpoints import Checkpoints
from pivot_jax.train.extract import extract
from pivot_jax.train.model import build_model
from pivot_jax.train.reference import weights_hash
from pivot_jax.train.run import run
from pivot_jax.train.session import Hook
from pivot_jax.train.setup import assemble, build_setup, starting_params
from tests.tiny import pairs
from tests.tiny.damage import without_digests
from tests.train.conftest import LORA, source
from tests.train.test_resume import same_bits, trace

UNSCANNED = {"model__vision__scan_layers": False, "model__decoder__scan_layers": False}
RULES = (
    ("vision/blocks/attn/.*", 1e-3),
    ("vision/.*|decoder/blocks/mlp/up/kernel", "frozen"),
    ("decoder/blocks/norm1/scale", 0.0),
    (".*", 1e-2),
)
STEPS = 3


def near(a, b, **limits) -> None:
    """The parameters of two runs."""
    a, b = (rules.flatten(checkpoint.load_run(workdir, merge=False)) for workdir in (a, b))
    assert a.keys() == b.keys()
    for path in a:
        np.testing.assert_allclose(a[path], b[path], err_msg=path, **limits)


def setup_of(objective: str = "sft", clip: float = 0.0, **changes):
    """Parts of a run of the tiny pairs, none of whose layers are scanned."""
    config = configs.base()
    tower = {"depth": 3, "heads": 2, "mlp_dim": 32, "scan_layers": False}
    decoder = {"depth": 2, "heads": 4, "kv_heads": 2, "mlp_dim": 48, "tied": False, "scan_layers": False}
    content = {
        "model": {
            "vision": {"image_size": 16, "patch_size": 8, "width": 16, **tower},
            "decoder": {"vocab_size": pairs.VOCABULARY, "width": 32, **decoder},
        },
        "data": {"image": {"size": 16}, "batch_size": 8},
        "objective": {"name": objective},
        "optimizer": {"rules": RULES, "warmup_ratio": 0.0, "clip": clip, "weight_decay": 0.1, "eps": 1e-5},
    }
    configs.merge(config, content | changes)
    mesh = make_mesh({"data": 1, "fsdp": 1, "tensor": 1}, jax.devices()[:1])
    model = build_model(config, pairs.VOCABULARY)
    return assemble(config, mesh, SimpleNamespace(total_steps=STEPS), model, build_objective(model.module, config))


def train(setup, separate: bool):
    """(metrics of each step, state) from the starting parameters, in the layout of the run or stacked."""
    state = setup.fresh_state(starting_params(setup))
    step = setup.compiled_step()
    if not separate:
        state = stacking.stacked(state)
        own = build_step(setup.objective, setup.optimizer, clip=setup.config.optimizer.clip, accumulate=1)
        step = jax.jit(own, donate_argnums=0)
    metrics = []
    with jax.set_mesh(setup.mesh):
        for seed in range(STEPS):
            state, found = step(state, place_batch(pairs.pairs(8, seed=seed), setup.mesh), None)
            metrics.append(jax.device_get(found))
    return metrics, state


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"objective": "dpo"},
        {"clip": 0.1},
        {"lora": {"rank": 2, "targets": (*LORA["lora__targets"][:2], (".*", "none"))}},
    ],
    ids=["sft", "dpo", "clipped", "lora"],
)
@pytest.mark.heavy_after(1)
def test_training_gives_the_bits_of_stacked_parameters(changes):
    """With rates and freezing by path, and weight decay.

    Only the gradient's norm is rounded differently: its squares are added up per leaf. Clipping passes that on (and
    Adam's usual eps would amplify it to whole steps where a gradient is zero except for rounding).
    """
    setup = setup_of(**changes)
    (found, state), (expected, whole) = train(setup, True), train(setup, False)
    assert stacking.has_layers(state.trained) and stacking.has_layers(state.opt_state)
    flat = rules.flatten(state.frozen) | rules.flatten(state.trained)
    assert all(isinstance(leaf, Layers) == stacking.in_stack(path) for path, leaf in flat.items())
    for mine, theirs in zip(found, expected, strict=True):
        assert float(mine["grad_norm"]) == pytest.approx(float(theirs["grad_norm"]), rel=1e-6)
        assert float(mine["loss"]) == (
            pytest.approx(float(theirs["loss"]), rel=1e-6) if changes.get("clip") else float(theirs["loss"])
        )
    state, whole = stacking.on_host((state, whole))
    tolerance = 1e-6 if changes.get("clip") else 0
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance), state, whole)
    start, params = (rules.flatten(stacking.on_host(x)) for x in (starting_params(setup), whole.trained))
    rate = lambda path: setup.rates[path]  # noqa: E731
    unmoved = {path for path in params if np.array_equal(params[path], start[path])}
    still = {path for path in params if rate(path) == 0.0}
    assert still <= unmoved and not any(path.startswith("decoder/blocks/attn/q") for path in unmoved)


def test_random_parameters_and_their_hash_do_not_depend_on_the_layout(make_config, tmp_path):
    found = {}
    for name, changes in (("scanned", {}), ("unscanned", UNSCANNED)):
        setup = build_setup(make_config(**changes), tmp_path / name)
        params = starting_params(setup)
        assert stacking.has_layers(params) == (name == "unscanned")
        found[name] = weights_hash(params), setup.rates, partition.table(setup.like, setup.rates)
    assert found["scanned"] == found["unscanned"]


@pytest.fixture(scope="module")
def both(make_config, tmp_path_factory):
    """Folder of two finished runs of six steps, "scanned" and "unscanned", with checkpoints after 3 and 6 steps."""
    folder = tmp_path_factory.mktemp("both")
    for name, changes in (("scanned", {}), ("unscanned", UNSCANNED)):
        run(make_config(train__steps=6, train__checkpoint_every=3, name="same", **changes), folder / name)
    return folder


@pytest.mark.heavy
def test_a_checkpoint_is_the_same_tree_of_stacked_arrays(both):
    states = [checkpoint.metadata(both / name / "checkpoints" / "3" / "state") for name in ("scanned", "unscanned")]
    shapes = [jax.tree.map(lambda leaf: (tuple(leaf.shape), str(leaf.dtype)), state) for state in states]
    assert shapes[0] == shapes[1]
    assert shapes[0]["trained"]["decoder"]["blocks"]["attn"]["q"]["kernel"] == ((2, 32, 32), "float32")
    near(both / "scanned", both / "unscanned", rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("first", "then"), [("scanned", UNSCANNED), ("unscanned", {})], ids=["unrolled", "scanned"])
@pytest.mark.heavy_after(1)
def test_a_run_resumes_with_the_other_layout(both, make_config, tmp_path, first, then):
    """The restored numbers are those of the checkpoint; the rest of the run differs by rounding."""
    (tmp_path / "checkpoints").mkdir()
    for name in ("config.json", "checkpoints/3"):
        (tmp_path / name).symlink_to(both / first / name)
    config = make_config(train__steps=6, train__checkpoint_every=3, name="same", **then)
    setup = build_setup(config, tmp_path)
    state, _ = Checkpoints(tmp_path).restore(3, setup.state_like())
    assert stacking.has_layers(state) == (first == "scanned")
    saved = checkpoint.load_tree(tmp_path / "checkpoints" / "3" / "state")
    for part in ("trained", "frozen"):
        jax.tree.map(np.testing.assert_array_equal, stacking.on_host(getattr(state, part)), saved.get(part, {}))
    moments = stacking.on_host(state.opt_state[0])
    for name in ("mu", "nu"):
        jax.tree.map(np.testing.assert_array_equal, getattr(moments, name), saved["opt_state"][0][name])
    wanted = jax.tree.map(lambda like, x: like.sharding == x.sharding, setup.state_like(), state)
    assert all(jax.tree.leaves(wanted))
    (tmp_path / "config.json").unlink()
    (tmp_path / "config.json").write_bytes((both / first / "config.json").read_bytes())
    assert run(config, tmp_path).step == 6
    near(tmp_path, both / first, rtol=1e-3, atol=1e-4)
    expected = [line["loss"] for line in trace(both / first)][3:]
    np.testing.assert_allclose([line["loss"] for line in trace(tmp_path)], expected, rtol=1e-4)


def test_a_checkpoint_of_a_stacked_state_continues_to_the_same_bits(both, make_config, tmp_path):
    """As versions before this layout wrote it: the stacked state through orbax alone."""
    config = make_config(train__steps=6, train__checkpoint_every=3, name="same", **UNSCANNED)
    at = "checkpoints/3"
    (tmp_path / at).mkdir(parents=True)
    like = jax.tree.map(np.asarray, checkpoint.load_tree(both / "unscanned" / at / "state"))
    with ocp.StandardCheckpointer() as writer:
        writer.save((tmp_path / at / "state").absolute(), jax.tree.map(jax.numpy.asarray, like))
    (tmp_path / at / "progress").symlink_to(both / "unscanned" / at / "progress")
    shutil.copy(both / "unscanned" / at / "_CHECKPOINT_METADATA", tmp_path / at)
    without_digests(tmp_path / at)
    (tmp_path / "config.json").write_bytes((both / "unscanned" / "config.json").read_bytes())
    assert run(config, tmp_path).step == 6
    same_bits(tmp_path, both / "unscanned")


@pytest.mark.heavy
def test_a_hook_gets_parameters_that_export_to_the_same_bytes(make_config, tmp_path):
    config = make_config(train__steps=1, eval__every=1, **UNSCANNED)
    setup = build_setup(config, tmp_path / "run")
    model, hashes = setup.model.module.config, []

    def evaluate(step, params):
        assert stacking.has_layers(params)
        hashes.append(weights_hash(params))
        hub.export_encoder(params, model.vision, tmp_path / "separate")
        return {}

    run(config, tmp_path / "run", [Hook("export", evaluate)])
    params = checkpoint.load_run(tmp_path / "run")
    assert hashes == [weights_hash(params)]
    hub.export_encoder(params, model.vision, tmp_path / "stacked")
    a, b = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("separate", "stacked"))
    assert a == b
    about = extract(tmp_path / "run", tmp_path / "pack")
    assert about["sha256"]["vision"] == weights_hash(params["vision"])


@pytest.mark.heavy
def test_adapters_are_trained_per_layer_and_saved_stacked(lora_runs, world, make_config, tmp_path):
    """SFT as with scanned layers; DPO against the frozen base, which is the state's."""
    start = {"": f"run:{lora_runs / 'base'}"}
    run(make_config(init=start, **LORA, **UNSCANNED), tmp_path / "sft")
    near(tmp_path / "sft", lora_runs / "adapted", rtol=1e-3, atol=1e-4)
    base, raw = (rules.flatten(checkpoint.load_run(at, merge=False)) for at in (lora_runs / "base", tmp_path / "sft"))
    for path, leaf in base.items():
        np.testing.assert_array_equal(raw[path], leaf, err_msg=path)
    assert any(lora.is_adapter(path) for path in raw)
    dpo = dict(objective__name="dpo", data__sources=(source(world, "next_dpo"),), objective__reference="step")
    run(make_config(init=start, **dpo, **LORA, **UNSCANNED), tmp_path / "dpo")
    assert trace(tmp_path / "dpo")[0]["rewards/margins"] == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("reference", [pytest.param("stored", marks=pytest.mark.heavy), "step"])
@pytest.mark.heavy
def test_dpo_has_the_reference_of_scanned_layers(world, make_config, tmp_path, reference):
    dpo = dict(objective__name="dpo", data__sources=(source(world, "next_dpo"),), objective__reference=reference)
    for name, changes in (("scanned", {}), ("unscanned", UNSCANNED)):
        run(make_config(**dpo, **changes), tmp_path / name)
    for mine, theirs in zip(trace(tmp_path / "unscanned"), trace(tmp_path / "scanned"), strict=True):
        assert mine.keys() == theirs.keys()
        for name in mine:
            assert mine[name] == pytest.approx(theirs[name], rel=1e-3, abs=1e-4), name
