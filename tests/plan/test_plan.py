"""Plans: topology names, counts against closed forms, the estimate, and ahead-of-time compilation where installed."""

from __future__ import annotations

import importlib.util
import json

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec as P

from pivot_jax import config as configs
from pivot_jax.cli.main import main
from pivot_jax.errors import UserError
from pivot_jax.kernels import attention, token_logprobs
from pivot_jax.plan import program, topology
from pivot_jax.plan.collectives import traffic
from pivot_jax.plan.run import largest_rows, plan
from pivot_jax.plan.work import traced_flops

DPO = "configs/pivot/stage2_dpo.py"
PAPER_PAIR = (768, 128)  # 576 image tokens, 64 of prompt, two answers of 64
needs_libtpu = pytest.mark.skipif(not importlib.util.find_spec("libtpu"), reason="libtpu (extra tpu) is not installed")


def without_compiler(name):
    """A topology of which nothing but the figures is known."""
    found = topology.find(name)
    return topology.Topology(found.name, found.chip, found.count, found.slices, None, "tpu")


@pytest.mark.parametrize(
    ("name", "count"), [("v5e-16", 16), ("v5p-8", 4), ("v5p-64", 32), ("v6e-16x2", 32), ("h200-1", 1), ("h100-8", 8)]
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


def test_packed_rows_are_planned_as_sequences():
    """Eight pairs, four to a sequence: the work needed is that of the pairs alone, the arrays are those of a batch."""
    overrides = {"data.pack": "4", "data.max_length": "1024", "data.buckets": "((3072, 512),)"}
    where = without_compiler("h200-1")
    packed = plan(configs.load(DPO, overrides), where, rows=8)[0]
    alone = plan(configs.load(DPO, {"data.buckets": f"({PAPER_PAIR},)"}), where, rows=8)[0]
    assert (packed.pack, packed.rows, packed.bucket) == (4, 8, (3072, 512))
    assert packed.model_flops == alone.model_flops
    # the decoder's loops run over the same tokens; attention blocks between rows are traced though a TPU skips them
    assert alone.program.flops < packed.program.flops < 1.2 * alone.program.flops
    setup = program.prepare(configs.load(DPO, overrides), where)
    batch = program.abstract_batch(setup, packed.bucket, 8)
    assert batch.images.shape[:2] == (2, 4) and batch.tokens.shape == (2, 3072)
    assert batch.row_index.shape == (2, 4) and batch.ref_logps.shape == (2, 4, 2)
    with pytest.raises(UserError, match="6 rows of a step: no multiple of data.pack=4"):
        plan(configs.load(DPO, overrides), where, rows=6)


@pytest.mark.parametrize(("reference", "limit"), [("stored", 8.5e12), ("step", 11e12)])
def test_a_pair_of_the_papers_size_by_hand_and_by_xla(reference, limit, monkeypatch):
    """XLA counts the dense program without loops; by hand only the visible half of causal attention counts."""
    monkeypatch.setitem(attention.AUTO, "cpu", "reference")
    monkeypatch.setitem(token_logprobs._CHUNK, "cpu", 1 << 20)
    overrides = {"objective.reference": reference, "data.buckets": str((PAPER_PAIR,))}
    overrides |= {f"model.{tower}.{key}": value for tower in ("vision", "decoder") for key, value in
                  (("remat", "none"), ("scan_layers", "False"))}  # fmt: skip
    config = configs.load(DPO, overrides)
    by_hand = plan(config, without_compiler("h200-1"), rows=1)[0].model_flops
    here = topology.Topology("cpu", topology.CHIPS["h200"], 1, 1, jax.devices()[:1])
    setup = program.prepare(config, here)
    arguments, step = program.step_arguments(setup, PAPER_PAIR, 1), setup.compiled_step()
    with jax.set_mesh(setup.mesh):
        by_xla = step.trace(*arguments).lower().cost_analysis()["flops"]
    assert max(by_hand, by_xla) <= limit
    assert abs(by_hand / by_xla - 1) <= 0.1


def test_the_estimate_grows_with_rows_and_shrinks_with_devices():
    config = configs.load(DPO, {"parallel.fsdp": "-1", "parallel.data": "1"})
    few, many = (plan(config, without_compiler("v5e-16"), rows=n)[-1].program for n in (16, 64))
    assert many.temporaries > 2 * few.temporaries
    assert many.parameters == few.parameters
    wide = plan(config, without_compiler("v5e-64"), rows=64)[-1].program
    assert abs(wide.parameters / few.parameters - 0.25) < 0.01


def test_the_largest_rows_are_the_last_that_fit():
    config = configs.load(DPO, {"parallel.fsdp": "-1", "parallel.data": "1"})
    where = without_compiler("v5e-16")
    setup = program.prepare(config, where)
    rows = largest_rows(setup, where, (1024, 448))
    assert rows % 16 == 0
    fits = [plan(config, where, rows=n)[0].fits for n in (rows, 2 * rows)]
    assert fits == [True, False]


def test_a_model_that_does_not_fit_has_no_largest_rows():
    config = configs.load(DPO, {"model.decoder.name": "Qwen/Qwen2.5-7B-Instruct"})
    where = without_compiler("v5e-1")
    assert largest_rows(program.prepare(config, where), where, (1024, 448)) == 0


def test_the_command_prints_and_writes(tmp_path, capsys):
    out = tmp_path / "plan.json"
    arguments = ["--config", DPO, "--topology", "h100-8", "--rows", "8", "--sharding", "--json", str(out)]
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
    found = plan(config, topology.find("v5e-4"), rows=4)[0]
    assert found.compiled
    assert found.program.temporaries > 0
    assert found.program.traffic["all-gather"].operations > 0
