"""How alike what two layers, or two checkpoints of one layer, make of the same tokens is, whatever its basis.

Axes: I tokens  D features.

Source: Kornblith et al. 2019, arXiv:1905.00414, section 3 (linear centred kernel alignment).
"""

import numpy as np
from jaxtyping import Float


def inner_products(state_ID: np.ndarray) -> Float[np.ndarray, "I I"]:
    """Of every two tokens, once the mean of each feature is taken off; their mean square is 1, or they are all 0.

    float64. They are all that `alignment` needs of the states, however wide these are.
    """
    state_ID = np.asarray(state_ID, np.float64)
    centred_ID = state_ID - state_ID.mean(axis=0, keepdims=True)
    product_II = centred_ID @ centred_ID.T
    size = float(np.sqrt(np.square(product_II).mean()))
    return product_II / size if size > 0 else product_II


def alignment(one_II: np.ndarray, other_II: np.ndarray) -> float:
    """Linear CKA of the states that these are `inner_products` of: 1 where one is the other turned and scaled, 0 where
    no direction of one goes with any of the other; 0 too where all states of one are the same."""
    one_II, other_II = (np.asarray(product_II, np.float64) for product_II in (one_II, other_II))
    sizes = float(np.linalg.norm(one_II) * np.linalg.norm(other_II))
    return float((one_II * other_II).sum()) / sizes if sizes > 0 else 0.0
