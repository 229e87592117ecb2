"""Plans: topology names, counts against closed forms, the estimate, and ahead-of-time compilation where installed."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import jax
import pytest

from pivot_jax import config as configs
from pivot_jax.cli.main import main
from pivot_jax.errors import UserError
from pivot_jax.kernels import attention, token_logprobs
from pivot_jax.plan import page, program, topology
from pivot_jax.plan.run import largest_rows, plan

DPO = "configs/pivot/stage2_dpo.py"
PAPER_PAIR = (768, 128)  # 576 image tokens, 64 of prompt, two answers of 64
needs_cuda = pytest.mark.skipif(
    not importlib.util.find_spec("jax_plugins") or not importlib.util.find_spec("jax_plugins.xla_cuda13"),
    reason="jax's cuda plugin (extra cuda) is not installed",
)
needs_libtpu = pytest.mark.skipif(not importlib.util.find_spec("libtpu"), reason="libtpu (extra tpu) is not installed")


def first(*args, **settings):
    return next(plan(*args, **settings))


def without_compiler(name):
    """A topology of which only the figures are known."""
    found = topology.find(name)
    return topology.Topology(found.name, found.chip, found.count, found.slices, None, "tpu")


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("v4-8", 8),
        ("v5e-16", 16),
        ("v5p-8", 4),
        ("v5p-64", 32),
        ("v6e-16x2", 32),
        ("7x-8", 8),
        ("h200-1", 1),
        ("h100-8", 8),
    ],
)
def test_a_name_has_its_number_of_devices(name, count):
    assert topology.find(name).count == count


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("v9-8", "unknown; write ACCELERATOR-NUMBER with one of: v4, v5e"),
        ("v5e", "unknown"),
        ("v5e-12", "does not exist; choose one of: v5e-1, v5e-4"),
        ("v5p-7", "does not exist"),
        ("h200-9", "1 to 8 GPUs"),
        ("h200-8x0", "write h200-8 for a single one"),
        ("a100-8", "plan has no figures of this GPU"),
    ],
)
def test_a_wrong_name_raises_an_error_that_lists_the_choices(name, message):
    with pytest.raises(UserError, match=message):
        topology.find(name)


@pytest.mark.parametrize(
    "message",
    [
        "Ran out of memory in memory space hbm. Used 24.98G of 15.75G hbm. Exceeded hbm capacity by 9.23G.",
        "the total memory required for HLO temporaries (24.98G) exceeds available HBM (15.75G).",
    ],
)
def test_messages_of_the_compiler_about_memory_are_parsed(message):
    assert str(program.too_large(f"RESOURCE_EXHAUSTED: {message}")) == "needs 24.98 GiB of 15.75"
    assert program.too_large("INTERNAL: something else") is None


def test_packed_rows_are_planned_as_sequences():
    """Eight pairs, four per sequence: the FLOPs needed are those of the pairs alone, the arrays those of a batch."""
    overrides = {"data.packing": "4", "data.max_length": "1024", "data.buckets": "((3072, 512),)"}
    where = without_compiler("h200-1")
    packed = first(configs.load(DPO, overrides), where, rows=8)
    alone = first(configs.load(DPO, {"data.buckets": f"({PAPER_PAIR},)"}), where, rows=8)
    assert (packed.packing, packed.rows, packed.bucket) == (4, 8, (3072, 512))
    assert packed.model_flops == alone.model_flops
    # the decoder runs over the same tokens; attention blocks between rows are traced although a TPU skips them
    assert alone.program.flops < packed.program.flops < 1.2 * alone.program.flops
    setup = program.prepare(configs.load(DPO, overrides), where)
    batch = program.abstract_batch(setup, packed.bucket, 8)
    assert batch.images.shape[:2] == (2, 4) and batch.tokens.shape == (2, 3072)
    assert batch.row_index.shape == (2, 4) and batch.ref_logps.shape == (2, 512)
    with pytest.raises(UserError, match="6 rows of a step are not a multiple of 4, as data.packing requires"):
        first(configs.load(DPO, overrides), where, rows=6)


@pytest.mark.parametrize(
    ("reference", "limit"), [("stored", 8.5e12), pytest.param("step", 11e12, marks=pytest.mark.heavy)]
)
@pytest.mark.heavy
def test_flops_of_a_pair_of_the_papers_size_by_hand_and_by_xla(reference, limit, monkeypatch):
    """XLA counts the dense program without loops. By hand, only the visible half of causal attention counts."""
    monkeypatch.setitem(attention.AUTO, "cpu", "reference")
    monkeypatch.setitem(token_logprobs._CHUNK, "cpu", 1 << 20)
    overrides = {"objective.reference": reference, "data.buckets": str((PAPER_PAIR,)), "train.accumulate": "1"}
    overrides |= {f"model.{tower}.{key}": value for tower in ("vision", "decoder") for key, value in
                  (("remat", "none"), ("scan_layers", "False"))}  # fmt: skip
    config = configs.load(DPO, overrides)
    by_hand = first(config, without_compiler("h200-1"), rows=1).model_flops
    here = topology.Topology("cpu", topology.CHIPS["h200"], 1, 1, jax.devices()[:1])
    setup = program.prepare(config, here)
    arguments, step = program.step_arguments(setup, PAPER_PAIR, 1), setup.compiled_step()
    with jax.set_mesh(setup.mesh):
        by_xla = step.trace(*arguments).lower().cost_analysis()["flops"]
    assert max(by_hand, by_xla) <= limit
    assert abs(by_hand / by_xla - 1) <= 0.1


@pytest.mark.heavy
def test_the_estimate_grows_with_rows_and_shrinks_with_devices():
    config = configs.load(DPO, {"data.buckets": "((3520, 2944),)"})
    few, many = (first(config, without_compiler("v5e-16"), rows=n).program for n in (32, 128))
    assert many.temporaries > 2 * few.temporaries
    assert many.parameters == few.parameters
    wide = first(config, without_compiler("v5e-64"), rows=128).program
    assert abs(wide.parameters / few.parameters - 0.25) < 0.01


def test_a_gpu_plan_warns_of_memory_that_jax_does_not_allocate():
    config = configs.load(DPO, {"data.buckets": "((1024,448),)"})
    where = without_compiler("h100-1")
    few, many = (first(config, where, rows=rows) for rows in (2, 256))
    assert few.program.peak < 60 * program.GIB < many.program.peak < 80 * program.GIB
    assert "XLA_PYTHON_CLIENT_MEM_FRACTION" not in page.text(few, where)
    assert "XLA_PYTHON_CLIENT_MEM_FRACTION=0.95" in page.text(many, where)


def test_the_largest_rows_are_the_last_that_fit():
    config = configs.load(DPO, {"parallel.fsdp": "-1", "parallel.data": "1"})
    where = without_compiler("v5e-16")
    setup = program.prepare(config, where)
    rows = largest_rows(setup, where, (1024, 448))
    assert rows % 16 == 0
    fits = [first(config, where, rows=n).fits for n in (rows, 2 * rows)]
    assert fits == [True, False]


def test_a_model_that_does_not_fit_has_no_largest_rows():
    config = configs.load(DPO, {"model.decoder.name": "Qwen/Qwen2.5-7B-Instruct"})
    where = without_compiler("v5e-1")
    assert largest_rows(program.prepare(config, where), where, (1024, 448)) == 0


PIVOT = sorted(str(path) for path in Path("configs/pivot").glob("*.py") if "common" not in path.name)


def test_all_full_size_configs_are_found():
    assert len(PIVOT) >= 6


@pytest.mark.parametrize("path", PIVOT)
def test_every_full_size_config_fits_its_hardware(path):
    config = configs.load(path)
    assert config.hardware
    with config.unlocked():
        config.data.buckets = config.data.buckets[-1:]  # the longest needs the most
    for name in config.hardware:
        where = without_compiler(name)
        most = largest_rows(program.prepare(config, where), where, tuple(config.data.buckets[0]))
        assert most >= config.data.batch_size


@needs_libtpu
@pytest.mark.parametrize("path", [pytest.param(path, marks=() if path == DPO else pytest.mark.heavy) for path in PIVOT])
def test_every_full_size_config_compiles_for_its_tpu(path):
    """The longest bucket, which needs the most."""
    config = configs.load(path)
    with config.unlocked():
        config.data.buckets = config.data.buckets[-1:]
    names = [name for name in config.hardware if not name.startswith("h")]
    assert names
    for name in names:
        found = first(config, topology.find(name))
        assert found.compiled and found.fits, page.text(found, topology.find(name))


@needs_cuda
@pytest.mark.heavy
@pytest.mark.parametrize("path", PIVOT)
def test_every_full_size_config_compiles_for_its_gpus(path):
    config = configs.load(path)
    with config.unlocked():
        config.data.buckets = config.data.buckets[-1:]
    names = [name for name in config.hardware if name.startswith("h")]
    assert names
    for name in names:
        found = first(config, topology.find(name))
        assert found.compiled and found.fits, page.text(found, topology.find(name))


def test_a_step_that_does_not_fit_reports_the_excess_and_the_fix():
    config = configs.load(DPO, {"data.batch_size": "4096", "data.buckets": "((3520, 2944),)"})
    where = without_compiler("v5e-16")
    found = first(config, where)
    assert not found.fits and 0 < found.largest_rows < 4096
    text = page.text(found, where)
    assert "too large by" in text and f"{found.largest_rows} rows fit; use train.accumulate=" in text
    assert first(config, where, rows=found.largest_rows).fits


@pytest.mark.heavy
def test_micro_batches_need_less_memory_and_the_same_flops():
    where = without_compiler("v5e-16")
    one, four = (
        first(configs.load(DPO, {"data.buckets": "((1024, 448),)", "train.accumulate": count}), where) for count in "14"
    )
    assert four.rows == one.rows == 256 and four.model_flops == one.model_flops
    assert four.program.temporaries < one.program.temporaries
    assert abs(four.program.flops / one.program.flops - 1) < 0.01
    with pytest.raises(UserError, match="30 rows of a step are not a multiple of 4, as train.accumulate requires"):
        first(configs.load(DPO, {"train.accumulate": "4"}), where, rows=30)


def test_no_topology_and_no_hardware_is_one_line(capsys):
    assert main(["plan", "--config", DPO, "--config.hardware=()"]) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_the_command_prints_and_writes(tmp_path, capsys):
    out = tmp_path / "plan.json"
    arguments = ["--config", DPO, "--topology", "h100-8", "--rows", "16", "--sharding", "--json", str(out)]
    code = main(["plan", *arguments, "--config.data.buckets=((1024,448),)"])
    printed = capsys.readouterr().out
    assert "decoder/blocks/attn/q/kernel" in printed
    assert "optimizer state" in printed
    content = json.loads(out.read_text())
    assert content[0]["fits"] is (code == 0)
    assert content[0]["devices"] == 8


@needs_libtpu
def test_a_step_compiles_for_tpus_that_are_not_present():
    config = configs.load(DPO, {"parallel.fsdp": "4", "parallel.data": "1", "data.buckets": "((1024,448),)"})
    found = first(config, topology.find("v5e-4"), rows=8)
    assert found.compiled
    assert found.program.temporaries > 0
    assert found.program.traffic["all-gather"].operations > 0


@needs_libtpu
@pytest.mark.heavy
@pytest.mark.parametrize("data", [2, 1])
def test_only_gradients_cross_slices_where_data_is_split_over_them(data):
    """With ``data`` over the slices a device sends its share of the gradients (bfloat16), otherwise parameters too."""
    small = {"name": "", "width": 64, "depth": 2, "heads": 4, "kv_heads": 2, "mlp_dim": 128, "vocab_size": 1024}
    overrides = {f"model.decoder.{key}": str(value) for key, value in small.items()}
    overrides |= {"model.vision.name": "google/siglip-base-patch16-224", "data.image.size": "224"}
    overrides |= {"parallel.data": str(data), "parallel.fsdp": "-1", "data.buckets": "((256, 64),)"}
    overrides |= {"train.accumulate": "1"}
    where = topology.find("v5e-4x2")
    found = first(configs.load(DPO, overrides), where, rows=8)
    gradients = 2 * found.program.optimizer / 8  # two moments of float32 in the optimizer's state
    sent = found.program.traffic["between slices"].bytes
    assert (0.9 * gradients < sent < 1.2 * gradients) if data == 2 else sent > 3 * gradients
    assert page.bounds(found, where)["between slices"] == sent / where.chip.outer_bytes


@needs_cuda
def test_a_step_compiles_for_gpus_that_are_not_present():
    """One row per device: XLA's own choice of matmul does not compile for that without the GPU."""
    one = {"train.accumulate": "1", "data.buckets": "((1024,448),)"}
    config = configs.load(DPO, {"parallel.fsdp": "8", "parallel.data": "1"} | one)
    found = first(config, topology.find("h100-8"), rows=8)
    assert found.compiled
    assert found.fits
    assert found.program.temporaries > 0
    gathered = found.program.traffic["all-gather"].bytes
    # Every sharded matmul weight is gathered in bfloat16 at least twice, forward and backward.
    assert gathered > 2 * (found.program.parameters * 8 / 4) * 2 * 0.9


@needs_cuda
def test_a_step_larger_than_a_gpu_does_not_fit_although_it_compiles():
    one = {"train.accumulate": "1", "data.buckets": "((1024,448),)"}
    config = configs.load(DPO, {"model.decoder.name": "Qwen/Qwen2.5-7B-Instruct"} | one)
    found = first(config, topology.find("h100-1"), rows=1)
    assert found.compiled
    assert not found.fits


def policy(**changes):
    settings = {
        "objective.name": "policy",
        "rl.algorithm": "trl-grpo",
        "rl.rewards": ({"name": "math"},),
        "rl.responses": 8,
        "rl.max_tokens": 1024,
        "data.buckets": ((576 + 256 + 8 * 512, 8 * 512),),
        "data.batch_size": 64,
        "data.max_length": 8192,
        **changes,
    }
    return configs.load("configs/pivot/stage2_sft.py", {"init": "{}", **settings})


def test_memory_of_sampling_by_hand():
    """Qwen2.5-1.5B in bfloat16: 28 layers, two key/value heads of 128; a cache for 576 + 256 + 1024 + 32 tokens."""
    config = policy()
    found = first(config, without_compiler("v5e-16"))
    sampling = found.sampling
    assert (sampling.slots, sampling.tokens) == (64, 2048)
    assert sampling.cache == 2 * 28 * 2 * 128 * 2048 * (64 // 16) * 2  # keys and values; two bytes
    without_reference = found.program.arguments - found.program.reference
    assert sampling.state == pytest.approx(without_reference, rel=0.1) and found.program.reference == 0
    assert first(policy(**{"rl.kl_coefficient": 0.01}), without_compiler("v5e-16")).program.reference > 0
    text = page.text(found, without_compiler("v5e-16"))
    assert "sampling, 64 responses at a time of up to 2048 tokens" in text


def test_a_cache_that_does_not_fit_is_named():
    config = policy(**{"rl.slots": 4096, "rl.max_tokens": 8192})
    found = first(config, without_compiler("v5e-16"))
    assert not found.samples and not found.fits
    assert "set rl.slots or rl.max_tokens lower" in page.text(found, without_compiler("v5e-16"))


@needs_libtpu
@pytest.mark.heavy
def test_the_samplers_block_compiles_for_a_tpu():
    found = first(policy(), topology.find("v5e-16"))
    assert found.sampling.temporaries > 0 and found.samples


def test_servers_need_no_plan():
    config = policy(**{"rl.engine": "vllm", "rl.vllm.urls": ("http://localhost:1",)})
    assert first(config, without_compiler("v5e-16")).sampling is None
