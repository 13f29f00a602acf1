"""train.planning.hlo on a program short enough to count by hand."""

import pytest

from train.planning.hlo import Program

TEXT = """HloModule step, is_scheduled=true

%body (state: (s32[], bf16[8,128])) -> (s32[], bf16[8,128]) {
  %state = (s32[]{:T(128)}, bf16[8,128]{1,0}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%state), index=0
  %x = bf16[8,128]{1,0} get-tuple-element(%state), index=1
  %two = s32[]{:T(128)} constant(2)
  %next = s32[]{:T(128)} add(%i, %two)
  %y = bf16[8,128]{1,0} fusion(%x), kind=kLoop, calls=%fused, backend_config={"window_config":{"estimated_cycles":"70"}}
  %gather-start = (bf16[8,128]{1,0}, bf16[16,128]{1,0}) all-gather-start(%y), dimensions={0}
  %gather-done = bf16[16,128]{1,0} all-gather-done(%gather-start)
  ROOT %result = (s32[]{:T(128)}, bf16[8,128]{1,0}) tuple(%next, %y)
}

%fused (x: bf16[8,128]) -> bf16[8,128] {
  %x = bf16[8,128]{1,0} parameter(0)
  ROOT %sin = bf16[8,128]{1,0} sine(%x), backend_config={"window_config":{"estimated_cycles":"1000"}}
}

%condition (state: (s32[], bf16[8,128])) -> pred[] {
  %state = (s32[]{:T(128)}, bf16[8,128]{1,0}) parameter(0)
  %bound = s32[]{:T(128)} constant(9)
  %i = s32[]{:T(128)} get-tuple-element(%state), index=0
  ROOT %less = pred[]{:T(512)} compare(%i, %bound), direction=LT
}

ENTRY %main (x: bf16[8,128]) -> f32[4,8] {
  %x = bf16[8,128]{1,0} parameter(0)
  %one = s32[]{:T(128)} constant(1)
  %init = (s32[]{:T(128)}, bf16[8,128]{1,0}) tuple(%one, %x)
  %loop = (s32[]{:T(128)}, bf16[8,128]{1,0}) while(%init), condition=%condition, body=%body
  %kernel = bf16[8,128]{1,0} custom-call(%x), custom_call_target="tpu_custom_call"
  ROOT %sum = f32[4,8]{1,0} all-reduce(%kernel), to_apply=%add, backend_config={"estimated_cycles":"5"}
}
"""


def test_a_loop_counts_as_often_as_it_turns():
    """From 1 below 9 in steps of 2: four turns; what a fusion calls is in the fusion's own estimate."""
    assert Program(TEXT).cycles == 4 * 70 + 5
    assert Program(TEXT.replace("constant(9)", "constant(10)")).cycles == 5 * 70 + 5


@pytest.mark.parametrize(
    "groups", ["{{0,1,2,3},{4,5,6,7}}", "[2,4]<=[8]", "mesh['data'=2,'fsdp'=2,'tensor'=2] {'fsdp','tensor'}"]
)
def test_exchanged_bytes_are_those_that_a_ring_brings(groups):
    """Of four chips: four gathers of 16 x 128 bfloat16, of which three quarters come from others; one sum of 4 x 8
    float32, twice as much; and a scattered one, three parts for the one that is kept."""
    text = TEXT.replace("dimensions={0}", f"dimensions={{0}}, replica_groups={groups}")
    text = text.replace("to_apply=%add", f"replica_groups={groups}, to_apply=%add")
    wanted = {"all-gather": 4 * 16 * 128 * 2 * 3 // 4, "all-reduce": 2 * 4 * 8 * 4 * 3 // 4}
    assert Program(text).collective_bytes == wanted
    scattered = text.replace("all-reduce(", "reduce-scatter(")
    assert Program(scattered).collective_bytes == {"all-gather": wanted["all-gather"], "reduce-scatter": 4 * 8 * 4 * 3}


def test_a_combined_asynchronous_exchange_counts_all_of_its_results():
    """Of a gather the second element of the tuple, which is one too; of a sum everything, twice: once to be added."""
    loop = "(bf16[8,128]{1,0}, bf16[16,128]{1,0}) all-gather-start(%y)"
    two = "((bf16[8,128]{1,0}, f32[5]{0}), (bf16[16,128]{1,0}, f32[10]{0})) all-gather-start(%y)"
    assert Program(TEXT.replace(loop, two)).collective_bytes["all-gather"] == 4 * (16 * 128 * 2 + 10 * 4)
    both = TEXT.replace(loop, "(f32[1000]{0}, f32[10]{0}) all-reduce-start(%y)")
    assert Program(both).collective_bytes["all-reduce"] == 2 * (4 * 1010 * 4 + 4 * 8 * 4)


def test_exchanges_within_fusions_count_once_and_a_sum_of_which_a_part_is_kept_as_that_part():
    """An asynchronous gather is spread over the fusions that compute meanwhile: they share its channel."""
    fused = """
%start (y: bf16[8,128]) -> bf16[16,128] {
  ROOT %part = bf16[16,128]{1,0} all-gather(%y), channel_id=7, dimensions={0}, replica_groups={{0,1}}
}

%all-reduce-scatter.2 (y: f32[8,128]) -> f32[2,128] {
  %sum = f32[8,128]{1,0} all-reduce(%y), channel_id=8, replica_groups=[2,4]<=[8], to_apply=%add
  ROOT %own = f32[2,128]{1,0} dynamic-slice(%sum, %one, %one), dynamic_slice_sizes={2,128}
}

ENTRY"""
    calls = """  %one = s32[]{:T(128)} constant(1)
  %begun = bf16[16,128]{1,0} fusion(%x), kind=kCustom, calls=%start
  %ended = bf16[16,128]{1,0} fusion(%x), kind=kCustom, calls=%start
  %kept = f32[2,128]{1,0} fusion(%x), kind=kCustom, calls=%all-reduce-scatter.2"""
    text = TEXT.replace("\nENTRY", fused).replace("  %one = s32[]{:T(128)} constant(1)", calls)
    before = Program(TEXT).collective_bytes
    assert Program(text).collective_bytes == {
        **before, "all-gather": before["all-gather"] + 16 * 128, "reduce-scatter": 3 * 2 * 128 * 4,
    }  # fmt: skip


def test_what_comes_from_other_slices_is_counted_apart():
    """A transfer of the runtime between slices, in the loop; a host's own transfer is none."""
    line = """  %got = (f32[12,8]{1,0}, u32[], token[]) recv(%x), is_host_transfer=true, frontend_attributes={KIND}
  %next ="""
    between = line.replace("KIND", '_xla_megascale_transfer_type="ALL_REDUCE"')
    assert Program(TEXT.replace("  %next =", between)).far_bytes == {"all-reduce": 4 * 12 * 8 * 4}
    assert Program(TEXT.replace("  %next =", line.replace("KIND", 'is_spmd_generated="true"'))).far_bytes == {}


def test_kernels_are_counted_apart():
    assert Program(TEXT).kernel_calls == 1
    assert Program(TEXT.replace("tpu_custom_call", "AllocateBuffer")).kernel_calls == 0


def test_a_loop_that_cannot_be_counted_is_an_error():
    with pytest.raises(ValueError, match="loop loop: its bound is computed"):
        _ = Program(TEXT.replace("%bound = s32[]{:T(128)} constant(9)", "%bound = s32[]{:T(128)} negate(%i)")).cycles
