"""Traffic between devices, read from optimised HLO."""

from __future__ import annotations

import pytest

from pivot_jax.plan.collectives import traffic


def test_traffic_counts_each_iteration_of_a_loop():
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
    """Loops with a known trip count, double-buffered by XLA; operations shared by several arrays."""
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


def test_traffic_between_slices_counts_sends_to_another_slice():
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
        ("bf16[64,8]{1,0} all-gather(%a), replica_groups=[4,2]<=[2,4]T(1,0)", 1024 // 2),  # the same index in both
        ("f32[8]{0} reduce-scatter(%a), replica_groups={} ", 8 * 32 // 2 // 4),
        ("f32[8]{0} all-reduce(%a), replica_groups={{0,4},{1,5},{2,6},{3,7}}", 2 * 32 // 2),
        ("f32[8]{0} all-to-all(%a), replica_groups={{0,1,2,3,4,5,6,7}}", 32 // 2),
        ("f32[8]{0} collective-permute(%a), source_target_pairs={{0,1},{1,2},{3,4}}", 32),
        ("f32[8]{0} collective-permute(%a), source_target_pairs={{0,1},{1,0}}", 0),
    ],
)
def test_traffic_between_machines_is_the_minimum_for_the_groups(operation, leaving):
    """Two machines of four GPUs that share the outgoing network."""
    hlo = f"HloModule m, num_partitions=8\nENTRY %main (a: f32[8]) -> f32[8] {{\n  ROOT %r = {operation}\n}}\n"
    found = traffic(hlo, 4)
    assert found.pop("between slices", (1, 0)) == (1, leaving)
    assert traffic(hlo) == found
