"""Figures that are read from a compiled program."""

from sophia_jax.plans.aot import collectives

HLO = """HloModule step, is_scheduled=true

%add (a: f32[], b: f32[]) -> f32[] {
  ROOT %sum = f32[] add(%a, %b)
}

%gather (p: bf16[8,16]) -> bf16[64,16] {
  ROOT %all-gather.1 = bf16[64,16]{1,0} all-gather(%p), dimensions={0}
}

%body (state: (s32[], bf16[8,16])) -> (s32[], bf16[8,16]) {
  %fused = bf16[64,16]{1,0} fusion(%x), kind=kCustom, calls=%gather
  %start = (bf16[8,16]{1,0}, bf16[8,16]{1,0}) collective-permute-start(%y), channel_id=3
  %done = bf16[8,16]{1,0} collective-permute-done(%start)
  ROOT %t = (s32[], bf16[8,16]) tuple(%i, %done)
}

%condition (state: (s32[], bf16[8,16])) -> pred[] {
  ROOT %less = pred[] compare(%i, %n), direction=LT
}

%all-reduce-scatter.1 (p: f32[64]) -> f32[8] {
  %all-reduce.3 = f32[64]{0} all-reduce(%p), to_apply=%add
  ROOT %slice = f32[8]{0} dynamic-slice(%all-reduce.3, %i), dynamic_slice_sizes={8}
}

%nothing (p: f32[64]) -> f32[8] {
  ROOT %zeros = f32[8]{0} broadcast(%zero), dimensions={}
}

%some (p: f32[64]) -> f32[8] {
  ROOT %sum = f32[8]{0} fusion(%p), kind=kCustom, calls=%all-reduce-scatter.1
}

%blocks (state: (s32[], f32[8])) -> (s32[], f32[8]) {
  %choice = f32[8]{0} conditional(%p, %x, %x), branch_computations={%nothing, %some}
  ROOT %u = (s32[], f32[8]) tuple(%i, %choice)
}

%until (state: (s32[], f32[8])) -> pred[] {
  %limit = s32[]{:T(128)} constant(5)
  ROOT %less = pred[]{:T(512)} compare(%i, %limit), direction=LT
}

ENTRY %main (p0: f32[128]) -> f32[128] {
  %loop = (s32[], bf16[8,16]) while(%init), condition=%condition, body=%body, backend_config={"known_trip_count":{"n":"10"}}
  %unnoted = (s32[]{:T(128)}, f32[8]{0}) while(%start), condition=%until, body=%blocks, metadata={op_name="scan"}
  ROOT %all-reduce.2 = f32[128]{0} all-reduce(%p0), to_apply=%add
}
"""


def test_collectives_are_counted_where_they_hide():
  found = collectives(HLO)
  assert found["all-reduce"] == 128 * 4
  assert found["all-gather"] == 10 * 64 * 16 * 2  # in a fusion, in a loop
  assert found["collective-permute"] == 10 * 8 * 16 * 2  # its start alone
  # A sum of which each keeps a part, in a branch, in a loop of unnoted trips.
  assert found["reduce-scatter"] == 5 * 64 * 4
  assert found["all-to-all"] == 0
