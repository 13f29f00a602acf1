"""Which rule is for which parameter, and for which layer of a stack."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from train.updates.parameter_rules import along, in_parts, layers_of, put, resolved, rows_where, runs_alike, taken

LAYERS = {"embedding": 0, "layers/up": 3, "layers/norm/scale": 3, "final_norm/scale": 0}


def values(*rules):
    return resolved("rates", rules, LAYERS)


def test_the_first_pattern_that_matches_counts_for_each_layer_alone():
    found = values(("layers/1/up", 0.5), ("layers/up", 0.25), ("layers/[02]/norm/.*", 2.0), (".*", 1.0))
    assert found == {
        "embedding": (1.0,),
        "layers/up": (0.25, 0.5, 0.25),
        "layers/norm/scale": (2.0, 1.0, 2.0),
        "final_norm/scale": (1.0,),
    }
    assert values(("layers/up", 0.25), ("layers/1/.*", 0.5), (".*", 1.0))["layers/up"] == (0.25, 0.25, 0.25)


def test_a_pattern_may_mean_single_layers_and_whole_parameters_at_once():
    found = values((r"embedding|layers/\d*[01]/up", 0.5), (".*", 1.0))
    assert (found["embedding"], found["layers/up"]) == ((0.5,), (0.5, 0.5, 1.0))
    assert found["layers/norm/scale"] == (1.0, 1.0, 1.0)


def test_a_wildcard_is_no_number_of_a_layer():
    """A pattern without numbers means what it meant before single layers could be named: here norms, and not up."""
    found = values(("layers/.+/.+", 0.5), (".*", 1.0))
    assert found["layers/up"] == (1.0, 1.0, 1.0)
    assert found["layers/norm/scale"] == (0.5, 0.5, 0.5)


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        ((("layers/1/upp", 0.5), (".*", 1.0)), "'layers/1/upp' matches no parameter; did you mean 'layers/1/up'"),
        ((("layers/3/up", 0.5), (".*", 1.0)), "'layers/3/up' matches no parameter: there are layers 0 to 2"),
        ((("layers/[01]/up|embedding|.*scale", 1.0),), r"no pattern matches \['layers/2/up'\]; end the list"),
        ((("embedding|.*scale", 1.0),), r"no pattern matches \['layers/up'\]"),
    ],
    ids=str,
)
def test_layers_left_out_or_not_there_are_named(rules, said):
    with pytest.raises(ValueError, match=rf"optimizer\.rates: .*{said}"):
        values(*rules)


def test_rows_are_taken_of_a_stack_and_put_back_where_they_were():
    """Neighbours and others; in a box as without one."""
    stack = jnp.arange(24.0).reshape(4, 3, 2)
    for rows in ((1, 2), (0, 3)):
        np.testing.assert_array_equal(taken(stack, rows), stack[np.array(rows)])
        boxed = taken(nn.LogicallyPartitioned(stack, ("layers", "embed", "mlp")), rows)
        assert boxed.names == ("layers", "embed", "mlp")
        np.testing.assert_array_equal(boxed.value, stack[np.array(rows)])
        new = put(stack, rows, -taken(stack, rows))
        for row in range(4):
            np.testing.assert_array_equal(new[row], -stack[row] if row in rows else stack[row])
    assert taken(stack, None) is stack
    assert rows_where([True, True]) is None
    assert rows_where([False, True]) == (1,)


def test_values_that_agree_are_one_number_and_others_one_for_each_layer():
    assert along((0.5, 0.5, 0.1), (0, 1), 3, 2.0) == 1.0
    np.testing.assert_array_equal(along((0.5, 0.5, 0.25), None, 3), np.reshape([0.5, 0.5, 0.25], (3, 1, 1)))


def test_layers_are_parted_where_what_trains_changes():
    layers = {"embedding": 0, "layers/up": 5, "layers/down": 5}
    assert runs_alike({"embedding": None, "layers/up": None}, layers) is None
    assert runs_alike({"layers/up": (2, 3, 4)}, layers) == (2, 3)
    assert runs_alike({"layers/up": (2, 3, 4), "layers/down": (3,)}, layers) == (2, 1, 1, 1)


def test_the_parts_of_a_stack_are_the_new_rows_and_the_old_ones_in_their_order():
    old = {"embedding": jnp.zeros(2), "layers/up": jnp.arange(5.0), "layers/down": jnp.arange(5.0)}
    new = {"embedding": None, "layers/up": -jnp.arange(5.0)[2:], "layers/down": jnp.arange(5.0) + 9}
    found = in_parts({"layers/up": (2, 3, 4), "layers/down": None}, (2, 3), new, old)
    assert found["embedding"] is old["embedding"]
    assert {name: leaf.tolist() for name, leaf in found.items() if name != "embedding"} == {
        "layers_0/up": [0, 1], "layers_1/up": [-2, -3, -4],
        "layers_0/down": [9, 10], "layers_1/down": [11, 12, 13],
    }  # fmt: skip


def test_the_number_of_layers_is_that_of_rows_whether_boxed_or_not():
    leaf = jnp.zeros((3, 2))
    boxed = nn.LogicallyPartitioned(leaf, ("layers", "mlp"))
    found = layers_of({"layers/up": leaf, "layers/down": boxed, "head": leaf})
    assert found == {"layers/up": 3, "layers/down": 3, "head": 0}
