"""How probable a model finds a text: read from its beginning, or every token from both sides.

Axes: B batch  T position.
"""

import functools
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from gptjax.likelihood import chunks_for, token_scores
from gptjax.model import Transformer, head
from gptjax.sharding import row_ways

View = Literal["causal", "both sides"]
ROWS = 64  # of a batch
SHORTEST = 16  # tokens that a row is padded to at least


def log_probs(
    model: Transformer, params: Any, texts: Sequence[Sequence[int]], *, view: View = "causal", mask: int | None = None
) -> list[np.ndarray]:
    """The log-probability of every token of each text but its first, nats in float32: f32 [tokens - 1] a text.

    `causal`: given the tokens before it. They add up to the text's log-likelihood. `both sides`: given all others, by
    hiding one token at a time behind `mask` in an encoder's view, a row for every token; their sum is the
    pseudo-log-likelihood, which is no probability of the text, but ranks texts. It is for models trained on masked_lm.

    Texts are ids and begin with BOS. Raises ValueError for a text of fewer than 2 tokens or beyond the context, and
    where no mask is given to hide tokens behind.

    Source: Salazar et al. 2020, arXiv:1910.14659, section 2 (the state before a token predicts it, as in training:
    Charpentier and Samuel 2024, arXiv:2410.24159, section 2).
    """
    for number, ids in enumerate(texts):
        if not 2 <= len(ids) <= model.config.T:
            raise ValueError(
                f"text {number} has {len(ids)} tokens; from 2 to the context of {model.config.T} can be read"
            )
    if view == "causal":
        mask = 0  # nothing is hidden
    if mask is None:
        raise ValueError("view='both sides' hides tokens behind a mask, and this vocabulary has none; use 'causal'")
    found = [np.zeros(len(ids) - 1, np.float32) for ids in texts]
    # a row: (text, the token hidden in it, or 0 for none of them)
    hidden = [(n, j) for n, ids in enumerate(texts) for j in ((0,) if view == "causal" else range(1, len(ids)))]
    B = -(-ROWS // row_ways()) * row_ways()
    for rows, T in _batches(hidden, texts, model.config.T):
        tokens_BT, length_B = np.zeros((B, T), np.int32), np.zeros(B, np.int32)
        for b, (n, _) in enumerate(rows):
            tokens_BT[b, : len(texts[n])], length_B[b] = texts[n], len(texts[n])
        targets_BT = np.roll(tokens_BT, -1, axis=1)
        if view == "both sides":
            tokens_BT[np.arange(len(rows)), [j for _, j in rows]] = mask
        nats_BT = np.asarray(_nats(model, params, tokens_BT, targets_BT, length_B, view == "both sides"))
        for b, (n, j) in enumerate(rows):
            if view == "causal":
                found[n][:] = -nats_BT[b, : len(texts[n]) - 1]
            else:
                found[n][j - 1] = -nats_BT[b, j - 1]
    return found


def padded_length(length: int, context: int) -> int:
    """The power of two that so many tokens are padded to, so that few lengths are compiled; within the context."""
    return min(context, max(SHORTEST, 1 << (length - 1).bit_length()))


def _batches(
    rows: Sequence[tuple[int, int]], texts: Sequence[Sequence[int]], longest: int
) -> Iterator[tuple[list[tuple[int, int]], int]]:
    """(up to ROWS rows, the length that they are padded to): short texts first."""
    by_length: dict[int, list[tuple[int, int]]] = {}
    for row in rows:
        by_length.setdefault(padded_length(len(texts[row[0]]), longest), []).append(row)
    for T, same in sorted(by_length.items()):
        for first in range(0, len(same), ROWS):
            yield same[first : first + ROWS], T


@functools.partial(jax.jit, static_argnums=(0, 5))
def _nats(
    model: Transformer, params: Any, tokens_BT: Any, targets_BT: Any, length_B: Any, both_sides: bool
) -> jax.Array:
    config, (B, T) = model.config, tokens_BT.shape
    position_BT = jnp.broadcast_to(jnp.arange(T)[None, :], (B, T))
    inside_BT = position_BT < length_B[:, None]
    hidden_BTD, _ = model.apply(
        {"params": params}, tokens_BT, inside_BT.astype(jnp.int32), position_BT * inside_BT, inside_BT & both_sides
    )
    nats_BT, _ = token_scores(
        hidden_BTD, head(params), targets_BT,
        vocabulary=config.vocabulary, chunks=chunks_for(B, T, config.V), cap=config.logit_cap,
    )  # fmt: skip
    return nats_BT
