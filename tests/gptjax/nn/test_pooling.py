"""gptjax.nn.pooling: one vector out of the states of a text; heads and features are tested where they are used."""

import jax.numpy as jnp
import numpy as np
import pytest

from gptjax.nn.pooling import pooled


@pytest.mark.parametrize("pool", ["mean", "weighted"])
def test_a_mean_of_many_states_in_bfloat16_is_as_exact_as_they_are(pool):
    """Counts to 600 are not: bfloat16 has no odd number above 256. Padding behind the text counts for nothing."""
    state_T = np.where(np.arange(600) % 2, 1.0, -1.0).astype(np.float32)
    hidden_BTD = jnp.asarray(np.pad(state_T, (0, 8), constant_values=9)[None, :, None], jnp.bfloat16)
    inside_BT = jnp.asarray(np.pad(np.ones(600, np.int32), (0, 8))[None])
    [[[found]]] = np.asarray(pooled(hidden_BTD, inside_BT, jnp.array([[599]]), pool), np.float64)
    count_T = np.arange(1, 601) if pool == "weighted" else np.ones(600)
    assert found == pytest.approx((count_T * state_T).sum() / count_T.sum(), abs=1e-5)
