"""What to change where memory lacks."""

import dataclasses

from tests.tiny_recipe import recipe
from train.planning.less_memory import enough, in_words, levers
from train.recipe import BatchSpec, ComputeSpec, MeshSpec, OptimizerSpec


def made(tmp_path, **changes):
    settings = {
        "batch": BatchSpec(rows=8), "mesh": MeshSpec(fsdp=2), "compute": ComputeSpec(dtype="float32"),
        "optimizer": OptimizerSpec(name="adamw", warmup=2, ema=0.9),
    }  # fmt: skip
    return recipe(tmp_path, "run", **(settings | changes))


def test_every_value_is_a_recipe_that_runs_there(tmp_path):
    """On four devices, each change by itself; and every setting of the table is there."""
    start = made(tmp_path)
    found = {lever.setting: lever for lever in levers(start, 4)}
    assert {name: lever.values for name, lever in found.items()} == {
        "compute.remat": ("products", "full"), "batch.micro_batches": (2,), "mesh.fsdp": (4,), "batch.rows": (4,),
        "optimizer.name": ("muon", "lion", "adafactor"), "optimizer.ema": (None,), "compute.dtype": ("bfloat16",),
    }  # fmt: skip
    wide = found["mesh.fsdp"].on(start, 4)
    assert wide.mesh.over(4) == {"data": 1, "fsdp": 4, "tensor": 1, "context": 1}
    assert dataclasses.replace(wide, mesh=start.mesh) == start


def test_what_is_as_small_as_it_gets_is_not_offered(tmp_path):
    small = made(
        tmp_path, batch=BatchSpec(rows=1), compute=ComputeSpec(remat="full"), mesh=MeshSpec(),
        optimizer=OptimizerSpec(name="lion", warmup=2),
    )  # fmt: skip
    assert levers(small, 1) == []
    assert in_words(small, 1) == "it takes more devices, with mesh.fsdp over all of them, or a smaller model"
    assert "compute.remat" in in_words(made(tmp_path), 4)


def test_the_mildest_value_that_is_enough_is_told(tmp_path):
    """At most three settings; where none is enough alone, the first few that are together; else what else there is."""
    start = made(tmp_path)
    assert enough(start, 4, lambda other: other.compute.remat == "full") == (
        "enough would be one of: compute.remat=full (now none)"
    )
    assert enough(start, 4, lambda other: other != start).count("(now") == 3
    both = enough(start, 4, lambda other: other.batch.micro_batches > 1 and other.compute.remat == "full")
    assert both == "no one change is enough, but together: compute.remat=full, batch.micro_batches=2"
    assert enough(start, 4, lambda _: False).startswith("more devices")
    assert "compute.remat" not in enough(start, 4, lambda other: other != start, of_state=True)


def test_long_rows_may_be_split_where_the_width_divides_over_all_that_splits_it(tmp_path):
    """A width of 32 over fsdp x context of 16 devices; short rows and wider splits of it are not offered."""
    small = recipe(tmp_path, "run").model

    def offered(T, D, **mesh):
        start = made(tmp_path, model=dataclasses.replace(small, T=T, D=D), mesh=MeshSpec(**mesh))
        return {lever.setting: lever.values for lever in levers(start, 16) if lever.setting.startswith("mesh.")}

    assert offered(32768, 32, fsdp=2) == {"mesh.context": (2, 4, 8), "mesh.fsdp": (4, 8, 16)}
    assert offered(8192, 32, fsdp=2)["mesh.context"] == (2,)
    assert "mesh.context" not in offered(4096, 32, fsdp=2)
    assert offered(32768, 8, fsdp=1, context=4) == {"mesh.context": (8,), "mesh.fsdp": (2,)}
