"""Plans: topology names, counts against closed forms, the estimate, and ahead-of-time compilation where installed."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec as P

from pivot_jax import config as configs
from pivot_jax.cli.main import main
from pivot_jax.errors import UserError
from pivot_jax.kernels import attention, token_logprobs
from pivot_jax.models.flops import traced_flops
from pivot_jax.plan import page, program, topology
from pivot_jax.plan.collectives import traffic
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
    """A topology of which nothing but the figures is known."""
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
def test_a_name_gives_its_devices(name, count):
    assert topology.find(name).count == count


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("v9-8", "unknown; write ACCELERATOR-NUMBER with one of: v4, v5e"),
        ("v5e", "unknown"),
        ("v5e-12", "does not exist; there are: v5e-1, v5e-4"),
        ("v5p-7", "does not exist"),
        ("h200-9", "1 to 8 GPUs"),
        ("h200-8x0", "write h200-8 for a single one"),
    ],
)
def test_a_wrong_name_says_what_there_is(name, message):
    with pytest.raises(UserError, match=message):
        topology.find(name)


@pytest.mark.parametrize(
    "message",
    [
        "Ran out of memory in memory space hbm. Used 24.98G of 15.75G hbm. Exceeded hbm capacity by 9.23G.",
        "the total memory required for HLO temporaries (24.98G) exceeds available HBM (15.75G).",
    ],
)
def test_what_the_compiler_says_of_memory_is_understood(message):
    assert str(program._too_large(f"RESOURCE_EXHAUSTED: {message}")) == "needs 24.98 GiB of 15.75"
    assert program._too_large("INTERNAL: something else") is None


def test_traced_flops_of_loops_branches_and_shards():
    def f(x, w):
        x, _ = jax.lax.scan(lambda x, w: (x @ w, None), x, w)
        return jax.checkpoint(lambda x: jax.lax.cond(x[0, 0] > 0, lambda x: x @ w[0], lambda x: x, x))(x)

    x, w = jnp.ones((4, 8)), jnp.ones((3, 8, 8))
    assert traced_flops(jax.make_jaxpr(f)(x, w)) == (3 + 1) * 2 * 4 * 8 * 8
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    rows = jax.shard_map(lambda x: x @ x.T, mesh=mesh, in_specs=P("data"), out_specs=P("data"))
    assert traced_flops(jax.make_jaxpr(rows)(jnp.ones((32, 16)))) == 8 * 2 * 4 * 4 * 16


def test_traffic_counts_a_loop_as_often_as_it_runs():
    hlo = """HloModule m
%cond (p: (s32[])) -> pred[] {
  %c = s32[] constant(26)
  ROOT %lt = pred[] compare(%i, %c), direction=LT
}
%body (p: (s32[])) -> (s32[]) {
  %g = (bf16[4,8]{1,0}, bf16[32,8]{1,0}) all-gather-start(%x), channel_id=1
  %d = bf16[32,8]{1,0} all-gather-done(%g)
}
ENTRY %main (a: f32[8]) -> f32[8] {
  %w = (s32[]) while(%t), condition=%cond, body=%body
  ROOT %r = f32[1000]{0} all-reduce(%a), to_apply=%add
}
%add (x: f32[], y: f32[]) -> f32[] {
  ROOT %s = f32[] add(%x, %y)
}
"""
    found = traffic(hlo)
    assert found == {"all-gather": (26, 26 * 32 * 8 * 2), "all-reduce": (1, 4000)}


def test_traffic_of_programs_for_gpus():
    """Loops that say how often they run, double-buffered by XLA; operations that several arrays share."""
    hlo = """HloModule m
%cond (p: (s32[])) -> pred[] {
  ROOT %lt = pred[] fusion(%i), kind=kLoop, calls=%compare
}
%compare (i: s32[]) -> pred[] {
  %c = s32[] constant(51)
}
%body (p: (s32[])) -> (s32[]) {
  %g = ((bf16[4,8]{1,0}, bf16[2]{0}), (bf16[32,8]{1,0}, /*index=1*/bf16[16]{0})) all-gather-start(%x, %y), channel_id=1
  %s = ((f32[64,2]{1,0}), f32[8,2]{1,0}) reduce-scatter-start(%z)
}
ENTRY %main (a: f32[8]) -> f32[8] {
  %w = (s32[]) while(%t), condition=%cond, body=%body, backend_config={"known_trip_count":{"n":"13"}}
  ROOT %r = (f32[10]{0}, f32[5]{0}) all-reduce-start(%a, %b), to_apply=%add
}
%add (x: f32[], y: f32[]) -> f32[] {
  ROOT %s = f32[] add(%x, %y)
}
"""
    assert traffic(hlo) == {
        "all-gather": (13, 13 * (32 * 8 + 16) * 2),
        "reduce-scatter": (13, 13 * 8 * 2 * 4),
        "all-reduce": (1, 60),
    }


def test_traffic_between_slices_is_what_a_tpu_sends_to_another():
    handler = 'is_host_transfer=true, frontend_attributes={_xla_host_transfer_handler_name="xla_megascale_runtime"}'
    hlo = f"""HloModule m, num_partitions=8
ENTRY %main (a: f32[8]) -> f32[8] {{
  %r = f32[256,1024]{{1,0:T(8,128)}} reduce-scatter(%g), channel_id=1, replica_groups={{{{0,1,2,3}}}}
  %s = (f32[256,8,128]{{2,1,0:T(8,128)}}, u32[], token[]) send(%r, %t), {handler}
  %d = token[] send-done(%s), {handler}
  ROOT %v = (f32[256,8,128]{{2,1,0}}, u32[], token[]) recv(%t), {handler}
}}
"""
    assert traffic(hlo) == {"reduce-scatter": (1, 1 << 20), "between slices": (1, 1 << 20)}


@pytest.mark.parametrize(
    "operation, leaving",
    [
        ("bf16[64,8]{1,0} all-gather(%a), replica_groups={{0,1,2,3,4,5,6,7}}", 1024 // 2 // 4),
        ("bf16[64,8]{1,0} all-gather(%a), replica_groups=[1,8]<=[8]", 1024 // 2 // 4),
        ("bf16[64,8]{1,0} all-gather(%a), replica_groups=[2,4]<=[8]", 0),  # each within a machine
        ("bf16[64,8]{1,0} all-gather(%a), replica_groups=[4,2]<=[2,4]T(1,0)", 1024 // 2),  # the same place in both
        ("f32[8]{0} reduce-scatter(%a), replica_groups={} ", 8 * 32 // 2 // 4),
        ("f32[8]{0} all-reduce(%a), replica_groups={{0,4},{1,5},{2,6},{3,7}}", 2 * 32 // 2),
        ("f32[8]{0} all-to-all(%a), replica_groups={{0,1,2,3,4,5,6,7}}", 32 // 2),
        ("f32[8]{0} collective-permute(%a), source_target_pairs={{0,1},{1,2},{3,4}}", 32),
        ("f32[8]{0} collective-permute(%a), source_target_pairs={{0,1},{1,0}}", 0),
    ],
)
def test_traffic_between_machines_is_what_the_groups_need_at_least(operation, leaving):
    """Two machines of four GPUs, which share the way out."""
    hlo = f"HloModule m, num_partitions=8\nENTRY %main (a: f32[8]) -> f32[8] {{\n  ROOT %r = {operation}\n}}\n"
    found = traffic(hlo, 4)
    assert found.pop("between slices", (1, 0)) == (1, leaving)
    assert traffic(hlo) == found


def test_packed_rows_are_planned_as_sequences():
    """Eight pairs, four to a sequence: the work needed is that of the pairs alone, the arrays are those of a batch."""
    overrides = {"data.pack": "4", "data.max_length": "1024", "data.buckets": "((3072, 512),)"}
    where = without_compiler("h200-1")
    packed = first(configs.load(DPO, overrides), where, rows=8)
    alone = first(configs.load(DPO, {"data.buckets": f"({PAPER_PAIR},)"}), where, rows=8)
    assert (packed.pack, packed.rows, packed.bucket) == (4, 8, (3072, 512))
    assert packed.model_flops == alone.model_flops
    # the decoder's loops run over the same tokens; attention blocks between rows are traced though a TPU skips them
    assert alone.program.flops < packed.program.flops < 1.2 * alone.program.flops
    setup = program.prepare(configs.load(DPO, overrides), where)
    batch = program.abstract_batch(setup, packed.bucket, 8)
    assert batch.images.shape[:2] == (2, 4) and batch.tokens.shape == (2, 3072)
    assert batch.row_index.shape == (2, 4) and batch.ref_logps.shape == (2, 512)
    with pytest.raises(UserError, match="6 rows of a step: no multiple of 4, because of data.pack"):
        first(configs.load(DPO, overrides), where, rows=6)


@pytest.mark.parametrize(
    ("reference", "limit"), [("stored", 8.5e12), pytest.param("step", 11e12, marks=pytest.mark.heavy)]
)
def test_a_pair_of_the_papers_size_by_hand_and_by_xla(reference, limit, monkeypatch):
    """XLA counts the dense program without loops; by hand only the visible half of causal attention counts."""
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


def test_the_estimate_grows_with_rows_and_shrinks_with_devices():
    config = configs.load(DPO, {"data.buckets": "((3520, 2944),)"})
    few, many = (first(config, without_compiler("v5e-16"), rows=n).program for n in (32, 128))
    assert many.temporaries > 2 * few.temporaries
    assert many.parameters == few.parameters
    wide = first(config, without_compiler("v5e-64"), rows=128).program
    assert abs(wide.parameters / few.parameters - 0.25) < 0.01


def test_a_gpu_plan_says_what_jax_leaves_free():
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


def test_full_size_configs_are_all_here():
    assert len(PIVOT) >= 6


@pytest.mark.parametrize("path", PIVOT)
def test_every_full_size_config_fits_the_hardware_that_it_names(path):
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
def test_every_full_size_config_compiles_for_the_tpu_that_it_names(path):
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
def test_every_full_size_config_compiles_for_the_gpus_that_it_names(path):
    config = configs.load(path)
    with config.unlocked():
        config.data.buckets = config.data.buckets[-1:]
    names = [name for name in config.hardware if name.startswith("h")]
    assert names
    for name in names:
        found = first(config, topology.find(name))
        assert found.compiled and found.fits, page.text(found, topology.find(name))


def test_what_does_not_fit_says_by_how_much_and_what_would():
    config = configs.load(DPO, {"data.batch_size": "4096", "data.buckets": "((3520, 2944),)"})
    where = without_compiler("v5e-16")
    found = first(config, where)
    assert not found.fits and 0 < found.largest_rows < 4096
    text = page.text(found, where)
    assert "too large by" in text and f"{found.largest_rows} rows fit; take train.accumulate=" in text
    assert first(config, where, rows=found.largest_rows).fits


def test_micro_batches_need_less_and_do_the_same_work():
    where = without_compiler("v5e-16")
    one, four = (
        first(configs.load(DPO, {"data.buckets": "((1024, 448),)", "train.accumulate": count}), where) for count in "14"
    )
    assert four.rows == one.rows == 256 and four.model_flops == one.model_flops
    assert four.program.temporaries < one.program.temporaries
    assert abs(four.program.flops / one.program.flops - 1) < 0.01
    with pytest.raises(UserError, match="30 rows of a step: no multiple of 4, because of train.accumulate"):
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
def test_a_step_compiles_for_tpus_that_are_not_here():
    config = configs.load(DPO, {"parallel.fsdp": "4", "parallel.data": "1", "data.buckets": "((1024,448),)"})
    found = first(config, topology.find("v5e-4"), rows=8)
    assert found.compiled
    assert found.program.temporaries > 0
    assert found.program.traffic["all-gather"].operations > 0


@needs_libtpu
@pytest.mark.heavy
@pytest.mark.parametrize("data", [2, 1])
def test_gradients_alone_cross_slices_where_data_is_split_over_them(data):
    """With ``data`` over the slices a device sends its share of the gradients (bfloat16); without, parameters too."""
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
def test_a_step_compiles_for_gpus_that_are_not_here():
    """One row a device: XLA's own choice of matmul does not compile for that without the GPU at hand."""
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
def test_more_than_a_gpu_has_does_not_fit_though_it_compiles():
    one = {"train.accumulate": "1", "data.buckets": "((1024,448),)"}
    config = configs.load(DPO, {"model.decoder.name": "Qwen/Qwen2.5-7B-Instruct"} | one)
    found = first(config, topology.find("h100-1"), rows=1)
    assert found.compiled
    assert not found.fits
