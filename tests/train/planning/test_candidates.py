"""Which candidates there are."""

import dataclasses

import pytest

from gptjax.config import SIZES, ModelConfig
from tests.tiny_recipe import recipe
from train.planning.candidates import MOST, candidates
from train.planning.chips import machines
from train.recipe import BatchSpec, ComputeSpec, MeshSpec

V5E = machines("v5e:4x4")


def made(tmp_path, **changes):
    start = recipe(tmp_path, "run", model=SIZES["small"](), mesh=MeshSpec(), batch=BatchSpec(rows=8))
    return dataclasses.replace(start, **changes)


def config_of(made):
    return ModelConfig.of(made.model, 4096)


def test_where_nothing_was_said_meshes_batches_and_remats_vary(tmp_path):
    """No more than are promised, no two alike, rows over all chips, and layers never written out."""
    start = made(tmp_path, compute=ComputeSpec(unroll=True))
    found = candidates(start, set(), config_of(start), V5E)
    assert len({(one.mesh, one.batch, one.compute) for one in found}) == len(found) == MOST
    assert {one.compute.remat for one in found} == {"none", "products", "full"}
    assert {one.batch.rows for one in found} == {16, 64}
    assert {(one.mesh.fsdp, one.mesh.tensor) for one in found} == {(16, 1), (4, 1), (4, 4), (1, 1)}
    assert not any(one.compute.unroll for one in found)


def test_what_was_said_stays(tmp_path):
    start = made(
        tmp_path, batch=BatchSpec(rows=64), mesh=MeshSpec(fsdp=8), compute=ComputeSpec(remat="full", unroll=True)
    )
    said = {"batch.rows", "mesh.fsdp", "compute.remat", "compute.unroll"}
    found = candidates(start, said, config_of(start), V5E)
    assert [one.batch.micro_batches for one in found] == [1, 4]
    assert {(one.batch.rows, one.mesh, one.compute) for one in found} == {(64, start.mesh, start.compute)}
    assert len(candidates(start, {*said, "batch.micro_batches"}, config_of(start), V5E)) == 1


@pytest.mark.parametrize(
    ("changes", "slices", "said"),
    [
        ({"mesh": MeshSpec(fsdp=5)}, 1, r"--device v5e:4x4, 16 chips = 16 devices, but the mesh is"),
        ({"batch": BatchSpec(rows=10)}, 1, "10 rows of a micro-batch do not divide"),
        ({"mesh": MeshSpec(tensor=16)}, 1, "does not divide over mesh tensor = 16"),
        ({"mesh": MeshSpec(fsdp=32)}, 2, "32 chips beside its axis data do not divide the 16 of a slice"),
    ],
)
def test_what_cannot_be_is_told_as_training_would(tmp_path, changes, slices, said):
    start = made(tmp_path, **changes)
    settings = {"mesh": "mesh.fsdp", "batch": "batch.rows"}
    with pytest.raises(ValueError, match=said) as refusal:
        candidates(start, {settings[name] for name in changes}, config_of(start), machines("v5e:4x4", slices))
    assert "\n" not in str(refusal.value)


def test_fewer_rows_than_chips_lie_on_them_in_parts(tmp_path):
    """docs/clusters.md's own four rows of 131,072 tokens on 64 chips; of two slices each has two of the rows."""
    model = dataclasses.replace(SIZES["llama-7b"](), T=131_072)
    start = made(tmp_path, model=model, batch=BatchSpec(rows=4))
    found = candidates(start, {"batch.rows"}, config_of(start), machines("v5p:4x4x4"))
    assert {(one.mesh.fsdp, one.mesh.tensor, one.mesh.context) for one in found} == {(4, 1, 16)}
    assert {one.batch.rows for one in found} == {4}
    two = candidates(start, {"batch.rows"}, config_of(start), machines("v5e:4x4", 2))
    assert {(one.mesh.over(32)["data"], one.mesh.fsdp, one.mesh.context) for one in two} == {(2, 2, 8)}


def test_rows_are_made_more_for_the_mesh_that_was_said_alone(tmp_path):
    """Three rows: four over fsdp, four times that; over all chips where no mesh was said."""
    start = made(tmp_path, batch=BatchSpec(rows=3), mesh=MeshSpec(fsdp=4, context=4))
    found = candidates(start, {"mesh.fsdp", "mesh.context"}, config_of(start), V5E)
    assert {one.batch.rows for one in found} == {4, 16}
