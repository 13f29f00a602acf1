"""The compiled programs of generation: a row is seated, its prompt read in pieces, and every row goes on by a token.

Each program draws the next token from what it has just read, so that a token is known as soon as it can be.
Axes: B rows  T position  S cache slot  D residual  V vocabulary (padded rows)  W words of 32 tokens.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from gptjax.decoding.drawing import Choice, Drawn, draw, likeliest
from gptjax.nn.cached_attention import Cache
from gptjax.nn.likelihood import logits_from
from gptjax.nn.model import Transformer, head
from gptjax.sharding import constrain


class Rows(NamedTuple):
    """All that devices keep of the texts that are being written."""

    cache: Cache
    seen_BV: Array  # bool: tokens of each row's prompt and text
    count_BV: Array  # i32: how often each row's text has each token
    choice: Choice


class Scored(NamedTuple):
    """How probable the tokens of a piece are."""

    log_prob_T: Array  # f32: nats, of the token after each
    likeliest_TJ: Array
    their_log_prob_TJ: Array


@functools.partial(jax.jit, static_argnames=("model", "B", "slots"))
def empty(model: Transformer, B: int, slots: int) -> Rows:
    """So many rows with room for so many tokens each."""
    config = model.config
    V = config.V
    cache = Cache.empty(config, B, slots, model.dtype, model.parts or (config.L,)).placed()
    zero_B, one_B = jnp.zeros(B), jnp.ones(B)
    keys_B = jax.random.split(jax.random.key(0), B)
    choice = Choice(
        keys_B, zero_B, jnp.full(B, V), one_B, zero_B, one_B, zero_B, zero_B, jnp.zeros((B, V)), zero_B.astype(bool)
    )
    seen_BV = constrain(jnp.zeros((B, V), bool), "batch", "vocabulary")
    return Rows(cache, seen_BV, constrain(jnp.zeros((B, V), jnp.int32), "batch", "vocabulary"), choice)


@functools.partial(jax.jit, donate_argnames="rows")
def seat(rows: Rows, row: Int[Array, ""], choice: Choice, seen_V: Bool[Array, "V"]) -> Rows:
    """A new text in a row: its settings, which have no axis B, and the tokens of its prompt."""
    placed = jax.tree.map(lambda all_B, one: all_B.at[row].set(one), rows.choice, choice)
    return rows._replace(seen_BV=rows.seen_BV.at[row].set(seen_V), count_BV=rows.count_BV.at[row].set(0), choice=placed)


@functools.partial(jax.jit, donate_argnames="rows")
def copy(rows: Rows, source: Int[Array, ""], target: Int[Array, ""]) -> Rows:
    """The keys and values of one row in another too."""
    return rows._replace(cache=jax.tree.map(lambda x_LBKSH: x_LBKSH.at[:, target].set(x_LBKSH[:, source]), rows.cache))


@functools.partial(jax.jit, static_argnames=("model", "scored"), donate_argnames="rows")
def read(
    model: Transformer,
    params: Any,
    rows: Rows,
    row: Int[Array, ""],
    tokens_T: Int[Array, "T"],
    target_T: Int[Array, "T"],
    start: Int[Array, ""],
    length: Int[Array, ""],
    prefix: Int[Array, ""],
    allowed_W: Int[Array, "W"],
    *,
    scored: bool,
) -> tuple[Rows, Drawn, Scored | None]:
    """Reads the next piece of a row's prompt, `length` tokens padded on the right, into its slots from `start` on.

    Returns the token drawn after it, of use behind the last piece, and if `scored` how probable each target is.
    `prefix`: so many of the prompt's first tokens see each other, as a prefix-LM was trained; it is read in one piece
    then. Padding lands in slots that no token sees before they are overwritten.
    """
    place_1T = jnp.arange(tokens_T.shape[0])[None]
    real_1T = place_1T < length
    position_1T = jnp.minimum(start + place_1T, model.config.T - 1)  # of padding, too
    hidden_1TD, cache = model.apply(
        {"params": params}, tokens_T[None], real_1T.astype(jnp.int32), position_1T, real_1T & (place_1T < prefix),
        cache=rows.cache, slot_B=start[None], row=row,
    )  # fmt: skip
    assert isinstance(cache, Cache)  # one was given
    one = lambda x_B: jax.lax.dynamic_slice_in_dim(x_B, row, 1)  # noqa: E731
    last_11D = jax.lax.dynamic_slice_in_dim(hidden_1TD, length - 1, 1, axis=1)
    seen_1V, count_1V, choice = jax.tree.map(one, (rows.seen_BV, rows.count_BV, rows.choice))
    drawn = draw(
        _logits(model, params, last_11D)[:, 0], seen_1V, count_1V, allowed_W[None], start[None] + length, choice
    )
    found = None
    if scored:
        logits_TV = _logits(model, params, hidden_1TD)[0]
        total_T = jax.nn.logsumexp(logits_TV, axis=-1)
        log_prob_T = jnp.take_along_axis(logits_TV, target_T[:, None], axis=-1)[:, 0] - total_T
        found = Scored(log_prob_T, *likeliest(logits_TV, total_T, choice.told_B.any()))
    return rows._replace(cache=cache), drawn, found


@functools.partial(jax.jit, static_argnames="model", donate_argnames="rows")
def step(
    model: Transformer,
    params: Any,
    rows: Rows,
    token_B: Int[Array, "B"],
    slot_B: Int[Array, "B"],
    writing_B: Bool[Array, "B"],
    allowed_BW: Int[Array, "B W"],
) -> tuple[Rows, Drawn]:
    """Every row reads the token that was drawn last, into its next slot, and draws the one after it.

    Rows that are not `writing` do so to no use, and leave no trace.
    """
    S = rows.cache.k_LBKSH[0].shape[3]
    slot_B = jnp.where(writing_B, slot_B, S)  # beyond the cache, where nothing is written
    position_B1 = jnp.minimum(slot_B, model.config.T - 1)[:, None]
    one_B1 = jnp.ones_like(position_B1)
    hidden_B1D, cache = model.apply(
        {"params": params}, token_B[:, None], one_B1, position_B1, jnp.zeros_like(one_B1, bool),
        cache=rows.cache, slot_B=slot_B,
    )  # fmt: skip
    assert isinstance(cache, Cache)  # one was given
    row_B = jnp.arange(token_B.shape[0])
    seen_BV = constrain(rows.seen_BV.at[row_B, token_B].max(writing_B), "batch", "vocabulary")
    count_BV = constrain(rows.count_BV.at[row_B, token_B].add(writing_B), "batch", "vocabulary")
    logits_BV = _logits(model, params, hidden_B1D)[:, 0]
    # what is costly is done for those who ask for it and are there
    choice = rows.choice._replace(
        temperature_B=jnp.where(writing_B, rows.choice.temperature_B, 0), told_B=rows.choice.told_B & writing_B
    )
    drawn = draw(logits_BV, seen_BV, count_BV, allowed_BW, slot_B + 1, choice)
    return Rows(cache, seen_BV, count_BV, rows.choice), drawn


def _logits(model: Transformer, params: Any, hidden_BTD: Float[Array, "B T D"]) -> Float[Array, "B T V"]:
    return logits_from(hidden_BTD, head(params), model.config.vocabulary, model.config.logit_cap)


def all_allowed(V: int) -> np.ndarray:
    """The bits of a row that may draw any token."""
    return np.full(-(-V // 32), -1, np.int32)
