"""What is read from a compiled program."""

from sophia_jax.train.aot import collectives

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

ENTRY %main (p0: f32[128]) -> f32[128] {
  %loop = (s32[], bf16[8,16]) while(%init), condition=%condition, body=%body, backend_config={"known_trip_count":{"n":"10"}}
  ROOT %all-reduce.2 = f32[128]{0} all-reduce(%p0), to_apply=%add
}
"""


def test_collectives_are_counted_where_they_hide():
  found = collectives(HLO)
  assert found["all-reduce"] == 128 * 4
  assert found["all-gather"] == 10 * 64 * 16 * 2  # in a fusion, in a loop
  assert found["collective-permute"] == 10 * 8 * 16 * 2  # its start alone
  assert found["reduce-scatter"] == found["all-to-all"] == 0
