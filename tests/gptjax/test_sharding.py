"""gptjax.sharding: one table, which refuses what it cannot place; and the mesh never changes the numbers."""

import math
import re
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax.sharding import PartitionSpec

from gptjax import mesh_axes
from gptjax.config import ModelConfig
from gptjax.nn.likelihood import token_nll
from gptjax.nn.model import Transformer, init_params
from gptjax.sharding import batch_sharding, check_divides, held_rows, local_shape, make_mesh, partition, shardings
from train.mesh_spec import mesh_spec

CONFIG = ModelConfig(vocabulary=200, T=16, D=16, L=2, N=4, K=2, head_width=4, F=24, dropout=0.3)
MODEL = Transformer(CONFIG)
ROOT = Path(__file__).resolve().parents[2]


def placed(mesh):
    """The same parameters on any mesh, made in place."""
    abstract = jax.eval_shape(lambda key: init_params(MODEL, key), jax.random.key(0))
    where = shardings(mesh, abstract)
    with jax.set_mesh(mesh):
        return jax.jit(lambda key: nn.unbox(init_params(MODEL, key)), out_shardings=where)(jax.random.key(0)), abstract


def one_device():
    return make_mesh(devices=jax.devices()[:1])


def test_a_partition_is_read_from_the_table():
    """A weight of embed x heads is split by fsdp and tensor; an unnamed axis is not split."""
    assert partition(("layers", "embed", "heads")) == PartitionSpec(None, ("fsdp", "context"), ("tensor",))
    assert partition(("batch", None)) == PartitionSpec(("data", "fsdp"), None)


def test_an_unknown_axis_is_refused():
    """The error holds the array, the name and the known names."""
    with pytest.raises(ValueError, match=r"'hedas'.*\('embed', 'hedas'\).*known: .*heads"):
        partition(("embed", "hedas"))


def test_a_mesh_axis_serves_one_axis_of_an_array():
    """heads and mlp both lie on `tensor`; batch and embed meet on `fsdp`."""
    with pytest.raises(ValueError, match=r"'heads' and 'mlp'.*'tensor'"):
        partition(("heads", "mlp"))
    with pytest.raises(ValueError, match=r"'batch' and 'embed'.*'fsdp'"):
        partition(("batch", "embed"))


@pytest.mark.fault(28)
@pytest.mark.parametrize("shape", [(4, 1, 1), (3, 3, 1), (0, 8, 1), (-2, -4, 1)])
def test_a_mesh_of_another_size_than_the_devices_is_refused(shape):
    """The error holds the product, the devices and a mesh that fits; (2, 2, 2) fits."""
    with pytest.raises(ValueError, match=rf"= {np.prod(shape)}, devices = 8; .*data=8"):
        make_mesh(*shape)
    assert make_mesh(2, 2, 2).shape == {"data": 2, "fsdp": 2, "tensor": 2, "context": 1}


class Device:
    """One of several nodes, which this machine is not."""

    platform, device_kind = "gpu", "of no kind"

    def __init__(self, number):
        self.id, self.slice_index = number, number % 2


@pytest.mark.parametrize("sizes", [(2, 4), (4, 2), (1, 8), (1, 2, 4)])
def test_a_slower_network_parts_the_first_axes_of_a_mesh(sizes):
    """Copies of the model lie in nodes of their own; where there is one copy, its halves do."""
    found = make_mesh(*sizes, devices=[Device(n) for n in range(8)]).devices
    assert [device.slice_index for device in found.flat] == [0] * 4 + [1] * 4


def test_a_size_that_does_not_divide_names_leaf_axis_and_sizes():
    """A width of 10 over 4 ways of fsdp is refused; over 2 it is split."""
    leaf = nn.Partitioned(jax.ShapeDtypeStruct((10, 8), jnp.float32), ("embed", "heads"))
    with pytest.raises(ValueError, match=r"\['query'\].*'embed' of size 10 .*fsdp x context = 4 .*\[1, 2, 5, 10\]"):
        shardings(make_mesh(1, 4, 2), {"query": leaf})
    found = shardings(make_mesh(2, 2, 2), {"query": leaf})
    assert found["query"].spec == PartitionSpec(("fsdp", "context"), ("tensor",))


def test_a_leaf_needs_a_name_for_each_axis():
    """A parameter made without names is an error that says which; None is a name."""
    with pytest.raises(ValueError, match=r"\['w'\].*\(4, 4\) needs a name for each axis"):
        shardings(make_mesh(8), {"w": jax.ShapeDtypeStruct((4, 4), jnp.float32)})
    unsplit = nn.Partitioned(jax.ShapeDtypeStruct((3, 4), jnp.float32), (None, "heads"))
    assert shardings(make_mesh(2, 2, 2), {"w": unsplit})["w"].spec == PartitionSpec(None, ("tensor",))


def check(mesh, rows, **sizes):
    check_divides(mesh.shape, SimpleNamespace(**sizes), rows=rows, tokens=sizes["T"])


@pytest.mark.fault(28)
@pytest.mark.parametrize(
    ("sizes", "parts"),
    [
        ({"rows": 6}, ("rows of a micro-batch = 6", "data x fsdp = 4", "such as 8")),
        ({"N": 3}, ("model.N, query heads = 3", "tensor = 2", "such as 4")),
        ({"K": 1}, ("model.K, key/value heads = 1", "such as 2")),
        ({"F": 5}, ("model.F = 5", "such as 6")),
        ({"V": 129}, ("vocabulary rows V = 129", "such as 130")),
    ],
    ids=str,
)
def test_sizes_are_checked_before_anything_is_compiled(sizes, parts):
    """Each error holds the size, the mesh and a size that fits; the rest passes."""
    fitting, mesh = {"T": 9, "D": 16, "L": 3, "N": 4, "K": 2, "F": 24, "V": 128, "rows": 8}, make_mesh(2, 2, 2)
    check(mesh, **fitting)
    with pytest.raises(ValueError, match="does not divide") as error:
        check(mesh, **{**fitting, **sizes})
    assert all(part in str(error.value) for part in parts), error.value


def test_every_leaf_that_the_table_splits_is_split():
    """On 2 x 2 x 2 each device holds of every parameter the share its names promise, a quarter of the large ones."""
    params, abstract = placed(mesh := make_mesh(2, 2, 2))
    names = nn.get_partition_spec(abstract)
    for leaf, spec in zip(jax.tree.leaves(params), jax.tree.leaves(names), strict=True):
        ways = math.prod(mesh.shape[axis] for name in spec for axis in mesh_axes.axes_of(name))
        assert {shard.data.size * ways for shard in leaf.addressable_shards} == {leaf.size}, spec
        assert ways == 4 or "width" in spec


@pytest.mark.parametrize("shape", [(8, 1, 1), (2, 2, 2)], ids=str)
def test_the_mesh_changes_neither_hidden_states_nor_dropout(shape):
    """One device and eight agree within 1e-5, in evaluation and with one dropout key; another key differs (trap 20)."""

    def run(mesh):
        params, _ = placed(mesh)
        tokens_BT = np.arange(8 * 16, dtype=np.int32).reshape(8, 16)
        batch = (tokens_BT, np.ones_like(tokens_BT), tokens_BT % 16, np.zeros(tokens_BT.shape, bool))
        with jax.set_mesh(mesh):
            apply = jax.jit(
                lambda params, key, *batch: MODEL.apply(
                    {"params": params},
                    *batch,
                    deterministic=key is None,
                    rngs={"dropout": key} if key is not None else {},
                )[0]
            )
            batch = jax.device_put(batch, batch_sharding(mesh))
            return [np.asarray(apply(params, key, *batch)) for key in (None, jax.random.key(1), jax.random.key(2))]

    for found, wanted in zip(split := run(make_mesh(*shape)), run(one_device()), strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-5)
    assert (split[1] != split[2]).mean() > 0.9


def test_rows_are_split_over_data_and_fsdp():
    """Eight rows on 2 x 2 x 2 are two a device; micro-batches before them stay whole."""
    mesh = make_mesh(2, 2, 2)
    stacked = jax.device_put(np.zeros((3, 8, 4), np.int32), batch_sharding(mesh, leading=1))
    assert {shard.data.shape for shard in stacked.addressable_shards} == {(3, *local_shape(mesh, 8, 4))} == {(3, 2, 4)}


def test_a_line_of_the_table_is_a_mesh_axis(monkeypatch):
    """The mesh, its settings, shardings, the rows of a batch and the check of sizes follow; the numbers stay."""
    plain, _ = placed(one_device())
    monkeypatch.setitem(mesh_axes.MESH, "expert", mesh_axes.MeshAxis(("batch", "mlp"), "parts of the experts"))

    sizes = mesh_spec()(fsdp=2, expert=2).over(8)
    assert sizes == {"data": 2, "fsdp": 2, "tensor": 1, "context": 1, "expert": 2}
    mesh = make_mesh(**sizes)
    assert dict(mesh.shape) == sizes

    leaf = nn.Partitioned(jax.ShapeDtypeStruct((8, 8), jnp.float32), ("embed", "mlp"))
    assert shardings(mesh, {"up": leaf})["up"].spec == PartitionSpec(("fsdp", "context"), ("tensor", "expert"))
    assert batch_sharding(mesh).spec == PartitionSpec(("data", "fsdp", "expert"))
    assert local_shape(mesh, 16, 9) == (2, 9)

    fitting = {"T": 9, "D": 16, "L": 3, "N": 4, "K": 2, "F": 24, "V": 128, "rows": 8}
    check(mesh, **fitting)
    with pytest.raises(ValueError, match=r"rows of a micro-batch = 12 .* data x fsdp x expert = 8; .* such as 16"):
        check(mesh, **{**fitting, "rows": 12})
    with pytest.raises(ValueError, match=r"model\.F = 25 .* tensor x expert = 2"):
        check(mesh, **{**fitting, "F": 25})

    split, _ = placed(mesh)
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(split), jax.device_get(plain))
    np.testing.assert_allclose(table_slope(mesh), table_slope(one_device()), atol=1e-6)


def table_slope(mesh):
    """The gradient of the token table, which `gather` and `scatter` bring together from all rows."""
    rows_BTD, table_VD = jnp.ones((8, 2, 4)), jnp.zeros((128, 4))
    targets_BT = jnp.arange(16).reshape(8, 2)

    def nats(table_VD):
        return token_nll(rows_BTD, table_VD, targets_BT, vocabulary=128, chunks=1).sum()

    with jax.set_mesh(mesh):
        return np.asarray(jax.jit(jax.grad(nats))(table_VD))


def test_there_is_one_table():
    """No other file of the library says by name which mesh axis splits what."""
    guilty = [
        str(path.relative_to(ROOT))
        for path in (ROOT / "gptjax").rglob("*.py")
        if path.name != "sharding.py"
        and re.search(r"\b(PartitionSpec|NamedSharding)\([^)]*\"", path.read_text(encoding="utf-8"))
    ]
    assert guilty == []


@pytest.mark.parametrize("shape", [(8, 1, 1), (2, 2, 2), (1, 1, 8)])
def test_all_devices_together_hold_every_row_once_whatever_the_mesh(shape):
    mesh = make_mesh(*shape)
    np.testing.assert_array_equal(held_rows(mesh, 16, mesh.local_devices), np.arange(16))


def test_a_host_holds_the_rows_of_its_devices_and_no_row_between_them():
    """As on a TPU's torus, the first host's devices are not neighbours along `data`."""
    mesh = make_mesh(data=8, devices=[jax.devices()[place] for place in (0, 2, 4, 6, 1, 3, 5, 7)])
    assert held_rows(mesh, 16, jax.devices()[:4]).tolist() == [0, 1, 2, 3, 8, 9, 10, 11]
    assert held_rows(mesh, 16, jax.devices()[4:]).tolist() == [4, 5, 6, 7, 12, 13, 14, 15]
