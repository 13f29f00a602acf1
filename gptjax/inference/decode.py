"""The two compiled programs of generation: reading prompts into a key/value cache, and drawing one token a row from it.

Axes: B batch  T position  S cache slot  D residual  V vocabulary (padded rows).
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from gptjax.nn.likelihood import logits_from
from gptjax.nn.model import Cache, Transformer, head
from gptjax.sharding import constrain


class State(NamedTuple):
    """What the next token is drawn from, one row a text. All rows have equally many slots."""

    cache: Cache
    logits_BV: Array  # f32: scores of each row's next token
    slot_B: Array  # i32: tokens read so far, and so the slot and position of the next one
    seen_BV: Array  # bool: tokens of each row's prompt and text


class Choice(NamedTuple):
    """How tokens are chosen. All are traced, so that no change of settings compiles anew."""

    key_B: Array  # random key of each row
    temperature: Array  # 0 = the likeliest token
    top_k: Array  # the vocabulary's size = off
    top_p: Array  # 1 = off
    min_p: Array  # 0 = off
    penalty: Array  # for repetition; 1 = off
    bias_V: Array  # f32: added to the scores


@functools.partial(jax.jit, static_argnames=("model", "slots"))
def prefill(
    model: Transformer,
    params: Any,
    tokens_BT: Int[Array, "B T"],
    length_B: Int[Array, "B"],
    prefix: Bool[Array, ""],
    slots: int,
) -> State:
    """Reads prompts of `length_B` tokens, padded on the right, in one pass, into a cache of so many slots a row.

    `prefix`: each prompt's tokens all see each other, as a prefix-LM was trained; otherwise only earlier ones. Padding
    lands in slots of segment 0, which no token of a text sees and later tokens overwrite.
    """
    B, T = tokens_BT.shape
    place_BT = jnp.broadcast_to(jnp.arange(T)[None, :], (B, T))
    real_BT = place_BT < length_B[:, None]
    cache = Cache.empty(model.config, B, slots, model.dtype)
    hidden_BTD, cache = model.apply(
        {"params": params}, tokens_BT, real_BT.astype(jnp.int32), place_BT, real_BT & prefix,
        cache=_placed(cache), slot_B=jnp.zeros_like(length_B),
    )  # fmt: skip
    assert isinstance(cache, Cache)  # one was given
    last_B1D = jnp.take_along_axis(hidden_BTD, (length_B - 1)[:, None, None], axis=1)
    logits_BV = logits_from(last_B1D, head(params), model.config.vocabulary, model.config.logit_cap)[:, 0]
    read_BT = jnp.where(real_BT, tokens_BT, model.config.V)  # padding lands beyond the vocabulary, and is dropped
    none_BV = jnp.zeros((B, model.config.V), bool)
    seen_BV = jnp.put_along_axis(none_BV, read_BT, True, axis=-1, inplace=False, mode="drop")
    return State(_placed(cache), logits_BV, length_B, constrain(seen_BV, "batch", "vocabulary"))


@functools.partial(jax.jit, static_argnames="model", donate_argnames="state")
def decode(
    model: Transformer, params: Any, state: State, choice: Choice
) -> tuple[State, Int[Array, "B"], Float[Array, "B"]]:
    """Draws each row's next token and reads it; the token, and its log-probability (nats) before anything changed it.

    A row whose slots are full goes on in its last one, to no use.
    """
    keys_B = jax.vmap(jax.random.fold_in)(choice.key_B, state.slot_B)
    token_B = choose(adjusted(state.logits_BV, state.seen_BV, choice), keys_B, choice)
    logit_B = jnp.take_along_axis(state.logits_BV, token_B[:, None], axis=-1)[:, 0]
    log_prob_B = logit_B - jax.nn.logsumexp(state.logits_BV, axis=-1)
    seen_BV = jnp.put_along_axis(state.seen_BV, token_B[:, None], True, axis=-1, inplace=False)
    slot_B = jnp.minimum(state.slot_B, state.cache.segment_BS.shape[1] - 1)
    one_B1 = jnp.ones_like(token_B)[:, None]
    hidden_B1D, cache = model.apply(
        {"params": params}, token_B[:, None], one_B1, slot_B[:, None], jnp.zeros_like(one_B1, bool),
        cache=state.cache, slot_B=slot_B,
    )  # fmt: skip
    assert isinstance(cache, Cache)  # one was given
    logits_BV = logits_from(hidden_B1D, head(params), model.config.vocabulary, model.config.logit_cap)[:, 0]
    state = State(_placed(cache), logits_BV, state.slot_B + 1, constrain(seen_BV, "batch", "vocabulary"))
    return state, token_B, log_prob_B


def adjusted(logits_BV: Float[Array, "B V"], seen_BV: Bool[Array, "B V"], choice: Choice) -> Float[Array, "B V"]:
    """Scores with the bias added; then those of seen tokens divided by the penalty if positive, else multiplied by it.

    Source: Keskar et al. 2019, arXiv:1909.05858, section 4.1; for negative scores as Hugging Face does, which also has
    this order.
    """
    biased_BV = logits_BV + choice.bias_V[None, :]
    lowered_BV = jnp.where(biased_BV > 0, biased_BV / choice.penalty, biased_BV * choice.penalty)
    return jnp.where(seen_BV, lowered_BV, biased_BV)


def choose(logits_BV: Float[Array, "B V"], keys_B: Array, choice: Choice) -> Int[Array, "B"]:
    """One token id a row, drawn from what `narrowed` leaves; at temperature 0 the likeliest, of equals the lowest."""

    def draw():
        return jax.vmap(jax.random.categorical)(keys_B, narrowed(logits_BV, choice))

    likeliest = functools.partial(jnp.argmax, logits_BV, axis=-1)
    return jax.lax.cond(choice.temperature > 0, draw, likeliest).astype(jnp.int32)


def narrowed(logits_BV: Float[Array, "B V"], choice: Choice) -> Float[Array, "B V"]:
    """Scores divided by the temperature, -inf but for the top k, of those the top p, and of those the min p.

    The likeliest token is always kept; of equals, the lowest id is the likeliest.

    Source: Holtzman et al. 2020, arXiv:1904.09751, section 3.1 (top p); Nguyen et al. 2024, arXiv:2407.01082 (min p).
    """
    scaled_BV = logits_BV / choice.temperature
    order_BV = jnp.argsort(scaled_BV, axis=-1, descending=True, stable=True)
    ranked_BV = jnp.take_along_axis(scaled_BV, order_BV, axis=-1)
    rank_1V = jnp.arange(logits_BV.shape[-1])[None, :]
    ranked_BV = jnp.where(rank_1V < choice.top_k, ranked_BV, -jnp.inf)
    probs_BV = jax.nn.softmax(ranked_BV, axis=-1)
    better_BV = jnp.cumsum(probs_BV, axis=-1) - probs_BV  # probability of all better tokens
    kept_BV = (better_BV < choice.top_p) | (rank_1V == 0) | (choice.top_p >= 1)
    kept_BV &= probs_BV >= choice.min_p * probs_BV[:, :1]
    ranked_BV = jnp.where(kept_BV, ranked_BV, -jnp.inf)
    return jnp.put_along_axis(scaled_BV, order_BV, ranked_BV, axis=-1, inplace=False)


@functools.partial(jax.jit, static_argnames="times")
def repeat_rows(state: State, times: int) -> State:
    """Every row `times` times, neighbours alike: one prompt read once, continued in several ways."""
    cache, logits_BV, slot_B, seen_BV = state
    several = functools.partial(jnp.repeat, repeats=times)
    k_LBSKH, v_LBSKH = several(cache.k_LBSKH, axis=1), several(cache.v_LBSKH, axis=1)
    cache = Cache(k_LBSKH, v_LBSKH, several(cache.segment_BS, axis=0), several(cache.visible_BS, axis=0))
    seen_BV = constrain(several(seen_BV, axis=0), "batch", "vocabulary")
    return State(_placed(cache), several(logits_BV, axis=0), several(slot_B, axis=0), seen_BV)


def _placed(cache: Cache) -> Cache:
    """The cache on its place of the mesh, always the same, so that every step's result fits the next step's input."""
    heads = ("layers", "batch", "length", "heads", "width")
    return Cache(
        constrain(cache.k_LBSKH, *heads),
        constrain(cache.v_LBSKH, *heads),
        constrain(cache.segment_BS, "batch", "length"),
        constrain(cache.visible_BS, "batch", "length"),
    )
