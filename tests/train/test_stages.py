"""The PIVOT stages on a tiny data set: which parameters each trains, and how weights pass between them."""

from __future__ import annotations

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pivot_jax import config as configs
from pivot_jax import rules
from pivot_jax.errors import UserError
from pivot_jax.optim import partition, schedule
from pivot_jax.train import checkpoint, loop, pack, speed
from pivot_jax.train.initialization import initial_params
from pivot_jax.train.metrics import JsonLines, read
from pivot_jax.train.model import build_model
from pivot_jax.train.program import Program
from pivot_jax.train.reference import weights_hash
from pivot_jax.train.run import run
from pivot_jax.train.setup import build_setup, starting_params
from pivot_jax.train.source import WeightSource, load_params
from tests.tiny import pairs
from tests.train.conftest import source

FINAL = "vision/final/"


def changed(before, after):
    """Parts of the model (``vision/final`` separately) in which any parameter differs."""
    before, after = rules.flatten(before), rules.flatten(after)
    assert before.keys() == after.keys()
    parts = {path: "vision/final" if path.startswith(FINAL) else path.split("/")[0] for path in before}
    return {parts[path] for path in before if not np.array_equal(before[path], after[path])}


def test_each_stage_changes_the_parameters_that_it_trains_and_no_others(chain):
    params = {name: checkpoint.load_run(chain[name]) for name in ("1a", "1b", "sft", "dpo", "3")}
    everything = {"vision", "projector", "decoder"}
    assert changed(params["1a"], params["1b"]) == everything
    assert changed(params["1b"], params["sft"]) == everything
    assert changed(params["1b"], params["dpo"]) == everything
    assert changed(checkpoint.load_run(chain["dpo"])["vision"], params["3"]["vision"]) == set()
    for name in ("kernel", "bias"):
        frozen = params["dpo"]["projector"]["fc1"][name], params["3"]["projector"]["fc1"][name]
        np.testing.assert_array_equal(*frozen)
    assert not np.array_equal(params["dpo"]["projector"]["fc2"]["kernel"], params["3"]["projector"]["fc2"]["kernel"])


def test_stage_1a_changes_the_projector_only(chain, make_config):
    config = configs.from_json((chain["1a"] / "config.json").read_text())
    model = build_model(config, 300)
    key = jax.random.fold_in(jax.random.key(config.seed), 0)
    start = jax.jit(model.create)(key)
    assert changed(jax.tree.map(np.asarray, start), checkpoint.load_run(chain["1a"])) == {"projector"}


def test_full_size_learning_rates_and_schedule():
    config = configs.load("configs/pivot/stage1b.py")
    params = jax.eval_shape(build_model(config, 151665).create, jax.random.key(0))
    rates = partition.peak_rates([partition.UNUSED_BY_MLLM, *config.optimizer.rules], params)
    assert {rate for path, rate in rates.items() if path.startswith("vision/") and FINAL not in path} == {2e-6}
    assert {rate for path, rate in rates.items() if path.startswith(FINAL)} == {"frozen"}
    assert {rate for path, rate in rates.items() if not path.startswith("vision/")} == {1e-5}
    plain = (0, 1.0, 0.03, "cosine")
    section = config.optimizer
    assert (section.weight_decay, section.clip, section.warmup_ratio, section.schedule) == plain
    for stage, rate in (("stage2_sft", 5e-6), ("stage2_dpo", 1e-6)):
        section = configs.load(f"configs/pivot/{stage}.py").optimizer
        assert {value for _, value in section.rules} == {rate}
        assert (section.weight_decay, section.clip, section.warmup_ratio, section.schedule) == plain
    curve = schedule.multiplier(config.optimizer, 234)
    # 8 warm-up steps of 234; transformers' cosine schedule gives the same
    golden = {0: 0.0, 4: 0.5, 8: 1.0, 121: 0.5, 233: 4.8310e-05}
    np.testing.assert_allclose([curve(step) for step in golden], list(golden.values()), rtol=1e-4)


def test_the_schedule_equals_that_of_transformers():
    torch = pytest.importorskip("torch")
    from transformers import get_cosine_schedule_with_warmup

    section = {"warmup_ratio": 0.03, "schedule": "cosine"}
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = get_cosine_schedule_with_warmup(optimizer, 8, 234)
    for step in range(234):
        np.testing.assert_allclose(schedule.multiplier(section, 234)(step), theirs.get_last_lr()[0], atol=1e-6)
        optimizer.step()
        theirs.step()


def test_stage_2_starts_from_stage_1b_bit_for_bit(chain, make_config):
    config = configs.from_json((chain["dpo"] / "config.json").read_text())
    model = build_model(config, 300)
    like = jax.eval_shape(model.create, jax.random.key(0))
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    start = initial_params(dict(config.init), model.create, jax.random.key(9), jax.tree.map(lambda _: device, like))
    stage_1b = checkpoint.load_run(chain["1b"])
    for part in ("vision", "projector", "decoder"):
        assert weights_hash(start[part]) == weights_hash(stage_1b[part])


def test_the_stored_reference_is_of_the_starting_weights(chain):
    """At step 1 of DPO the policy is the reference: margins are 0 and the loss is ln 2."""
    first = read(chain["dpo"] / "metrics.jsonl")[0]
    np.testing.assert_allclose(first["loss"], np.log(2), atol=1e-5)
    np.testing.assert_allclose(first["rewards/margins"], 0.0, atol=1e-5)
    assert first["rewards/accuracies"] == 0.0


@pytest.mark.heavy
def test_the_reference_model_does_not_change_during_training(chain, make_config, tmp_path):
    """Where each step computes the reference: a step donates its state, so the reference must be a copy."""
    hashes = []

    def watched(setup, state, saved, reference, workdir, hooks):
        hashes.append(weights_hash(reference))
        result = loop.train(setup, state, saved, reference, workdir, hooks)
        hashes.append(weights_hash(reference))
        return result

    changes = json.loads((chain["dpo"] / "config.json").read_text())
    changes["objective"]["reference"] = "step"
    run(configs.from_json(json.dumps(changes)), tmp_path / "run", steps=watched)
    assert hashes == [weights_hash(checkpoint.load_run(chain["1b"]))] * 2
    assert checkpoint.load_run(tmp_path / "run").keys() == checkpoint.load_run(chain["1b"]).keys()
    stored, in_step = (read(workdir / "metrics.jsonl") for workdir in (chain["dpo"], tmp_path / "run"))
    for a, b in zip(stored, in_step, strict=True):
        np.testing.assert_allclose(a["loss"], b["loss"], rtol=1e-5)


def test_a_run_resumes_with_its_own_reference_only(chain, make_config, tmp_path):
    """If stage 1b was trained further meanwhile, the stored log-probs are not silently replaced."""
    config = configs.from_json((chain["dpo"] / "config.json").read_text())
    shutil.copytree(chain["dpo"], tmp_path / "run")
    shutil.copytree(chain["1b"], tmp_path / "1b")
    configs.merge(config, {"init": {"": f"run:{tmp_path / '1b'}"}})
    (tmp_path / "run" / "config.json").write_text(configs.to_json(config))
    assert run(config, tmp_path / "run").seconds == 0
    shutil.rmtree(tmp_path / "1b")
    shutil.copytree(chain["sft"], tmp_path / "1b")
    with pytest.raises(UserError, match="reference_logps.npz .* other weights or data"):
        run(config, tmp_path / "run")


def test_a_pack_round_trips_bit_for_bit(chain, tmp_path):
    params = checkpoint.load_run(chain["dpo"])
    packed, about = pack.load(chain["pack"])
    assert weights_hash(packed["vision"]) == weights_hash(params["vision"]) == about["sha256"]["vision"]
    assert weights_hash(packed["projector"]) == weights_hash(params["projector"])
    stage_3 = checkpoint.load_run(chain["3"])
    assert weights_hash(stage_3["vision"]) == weights_hash(packed["vision"])


@pytest.mark.parametrize(("reuse", "new", "names"), [(0, 2, 2), (1, 1, 2), (2, 2, 4)])
def test_projector_reuse_creates_the_documented_layers(make_config, reuse, new, names):
    config = make_config(model__projector__reuse=reuse, model__projector__layers=new)
    params = jax.eval_shape(build_model(config, 300).create, jax.random.key(0))
    assert sorted(params["projector"]) == [f"fc{i}" for i in range(1, names + 1)]


def test_a_checkpoint_of_another_model_is_rejected(chain, make_config, tmp_path):
    config = make_config(init={"": f"run:{chain['1b']}"}, model__vision__mlp_dim=40)
    with pytest.raises(UserError, match=r"'vision/.*' is \(.*\) in run:.* but \(.*\) in this config"):
        run(config, tmp_path / "run")
    with pytest.raises(UserError, match="no parameter is under 'visoin'"):
        run(make_config(init={"visoin": f"run:{chain['1b']}"}), tmp_path / "other")
    with pytest.raises(UserError, match="has no parameter 'decoder/"):
        run(make_config(init={"decoder": f"pack:{chain['pack']}"}), tmp_path / "third")


def test_weight_sources_are_parsed():
    source = WeightSource.parse("run:runs/a@30:vision")
    assert (source.kind, str(source.path), source.step, source.prefix) == ("run", "runs/a", 30, "vision")
    with pytest.raises(UserError, match="is not a weight source"):
        WeightSource.parse("/somewhere")


def test_an_encoder_without_pooling_head_names_the_key_to_set(make_config, chain, tmp_path):
    """Stage 0 needs an attention-pool head; an encoder that was made without one can still be a starting point."""
    params, about = pack.load(chain["pack"])
    del params["vision"]["final"]["pool"]
    pack.save(tmp_path / "headless", params, about)
    with pytest.raises(UserError, match="no attention-pool head: set model.vision.pool_head=false"):
        run(make_config(init={"vision": f"pack:{tmp_path / 'headless'}"}), tmp_path / "run")


def test_a_source_with_a_prefix_is_its_subtree(chain):
    with pytest.raises(UserError, match=r"nothing at 'decoder' \(it has: projector, vision\)"):
        load_params(f"pack:{chain['pack']}:decoder")
    blocks = load_params(f"pack:{chain['pack']}:vision/blocks")
    assert sorted(blocks) == ["attn", "ln1", "ln2", "mlp"]


def test_a_rule_that_matches_nothing_is_rejected(make_config, tmp_path):
    """One wrong letter would turn a frozen encoder into a trained one."""
    config = make_config(optimizer__rules=(("visio/.*", "frozen"), (".*", 1e-3)))
    with pytest.raises(
        UserError, match=r"'visio/\.\*' matches no parameter \(they are in: decoder, projector, vision\)"
    ):
        run(config, tmp_path)


def test_the_schedule_of_a_plain_number_needs_no_device():
    """A device would answer only after the steps in its queue."""
    for kind in ("cosine", "constant"):
        curve = schedule.multiplier({"warmup_ratio": 0.1, "schedule": kind}, 50)
        for step in range(51):
            assert not isinstance(curve(step), jax.Array)
            np.testing.assert_allclose(curve(step), curve(jnp.asarray(step)), atol=1e-7)


def test_a_step_is_read_after_the_next_one_is_queued(make_config, tmp_path, monkeypatch):
    """Also where every step is logged: only steps that save, or end the run, are waited for at once."""
    queued, queued_at_log = [], {}
    place, write = loop.place_batch, JsonLines.write
    monkeypatch.setattr(loop, "place_batch", lambda *args: (queued.append(1), place(*args))[1])

    def note(self, step, metrics):
        queued_at_log[step] = len(queued)
        write(self, step, metrics)

    monkeypatch.setattr(JsonLines, "write", note)
    run(make_config(train__steps=6, train__checkpoint_every=4), tmp_path)
    assert queued_at_log == {1: 2, 2: 3, 3: 4, 4: 4, 5: 6, 6: 6}


@pytest.mark.heavy
def test_a_run_logs_its_share_of_the_peak_flops(make_config, tmp_path, monkeypatch):
    """MFU counts the FLOPs of the model, HFU those of the program: with recomputation and padding."""
    monkeypatch.setattr(speed, "peak_flops", lambda kind: 1e12)
    lines = {}
    for remat in ("none", "full"):
        towers = {f"model__{tower}__remat": remat for tower in ("vision", "decoder")}
        run(make_config(**towers), tmp_path / remat)
        lines[remat] = read(tmp_path / remat / "metrics.jsonl")[-1]
    share = {remat: line["perf/hfu"] / line["perf/mfu"] for remat, line in lines.items()}
    assert 1 < share["none"] < share["full"]


def test_a_step_is_compiled_once_per_shape_and_logged(make_config, tmp_path, caplog):
    with caplog.at_level("INFO", logger="pivot_jax.train.program"):
        run(make_config(train__steps=5), tmp_path)
    logged = [record.getMessage() for record in caplog.records if "compiled" in record.getMessage()]
    assert len(logged) == 1 and logged[0].startswith("step 1: compiled for 8 rows of ")


def test_compiling_the_same_shapes_again_is_a_warning(caplog):
    """Here because the state's type changes; the shapes of the batch do not."""
    batch = pairs.pairs(2)
    program = Program(jax.jit(lambda state, batch, reference: (state, {"tokens": batch.tokens.sum()})), done=3)
    with caplog.at_level("INFO", logger="pivot_jax.train.program"):
        for state in (jnp.float32(0), jnp.float32(1), jnp.int32(0)):
            program(state, batch, None)
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("INFO", "step 4: compiled for 2 rows of 24 tokens"),
        ("WARNING", "step 6: compiled again for 2 rows of 24 tokens"),
    ]


def test_pairs_and_visual_pairs_train_together(chain, make_config, world, tmp_path):
    """mDPO's two terms: rows of the same file with another answer, and with a part of the image in its place."""
    entry = source(world, "next_dpo")
    config = make_config(
        init={"": f"run:{chain['1b']}"}, objective__name="dpo", data__images_per_row=2, train__steps=15,
        optimizer__rules=((".*", 1e-3),), data__sources=(entry, entry | {"image_negatives": "crop:0.8"}),
    )  # fmt: skip
    result = run(config, tmp_path / "run")
    assert np.isfinite(result.metrics["loss"]) and result.metrics["loss"] < np.log(2)
    assert not (tmp_path / "run" / "skipped.jsonl").exists()


def test_rounding_noise_is_small_random_and_of_its_own_seed(make_config):
    clean, one, again, other = (
        starting_params(build_setup(make_config(train__rounding_noise=noise, train__rounding_seed=seed), None))
        for noise, seed in ((0.0, 0), (1e-6, 0), (1e-6, 0), (1e-6, 1))
    )
    flat = [rules.flatten(jax.tree.map(np.asarray, tree)) for tree in (clean, one, again, other)]
    for path, leaf in flat[0].items():
        np.testing.assert_array_equal(flat[1][path], flat[2][path])
        np.testing.assert_allclose(flat[1][path], leaf, rtol=6e-6)
    moved = [
        any(not np.array_equal(a[path], b[path]) for path in a) for a, b in ((flat[0], flat[1]), (flat[1], flat[3]))
    ]
    assert all(moved)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_run_keeps_its_weights_in_the_type_of_its_config(make_config, tmp_path, dtype):
    run(make_config(optimizer__master_dtype=dtype, train__steps=2), tmp_path / "run")
    flat = rules.flatten(checkpoint.load_run(tmp_path / "run", 2)["decoder"])  # parts of the encoder are frozen
    kept = [np.array_equal(leaf, np.asarray(jnp.asarray(leaf, jnp.bfloat16), np.float32)) for leaf in flat.values()]
    assert len(kept) > 5 and all(kept) == (dtype == "bfloat16")
