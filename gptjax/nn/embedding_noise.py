"""Noise on the embeddings of a training text, NEFTune.

Axes: B batch  T position  D residual.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def embedding_noise(key: Array, segment_BT: Int[Array, "B T"], D: int, alpha: float) -> Float[Array, "B T D"]:
    """Uniform in [-1, 1] times alpha / sqrt(L D), float32, where L is the tokens of each token's own segment; 0 on
    padding. Its deviation is so alpha / sqrt(3 L D), packed or alone.

    Source: Jain et al. 2023, "NEFTune: noisy embeddings improve instruction finetuning", arXiv:2310.05914, algorithm 1.
    """
    T = segment_BT.shape[1]
    length_BT = jax.vmap(lambda segment_T: jnp.bincount(segment_T, length=T + 1)[segment_T])(segment_BT)
    scale_BT = jnp.where(segment_BT > 0, alpha * jax.lax.rsqrt(length_BT * jnp.float32(D)), 0.0)
    return scale_BT[..., None] * jax.random.uniform(key, (*segment_BT.shape, D), minval=-1.0, maxval=1.0)
