"""One pass of a model, seen from inside: the attention of its layers, their states, and how the result moves with them.

The arrays are the model's own. `gptjax.nn.model` sows them where `apply` is given the collection SEEN, mutable, with
room for them; this file alone does that, so that training and serving run the programs that they always ran. The room
has one place for each layer that was asked for, and one more, into which all others fall: what is held does not grow
with the model. Fused kernels give no probabilities, so the pass takes plain attention, `kernel="xla"`, as all of
`gptjax.inference` does on every device.
Axes: B batch  T query position  S key position  D residual  N query heads  n those asked for  L layers  C those asked
for  V vocabulary.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gptjax.config import ModelConfig
from gptjax.inference.feature_input import EMBEDDING, FINAL, Layer
from gptjax.inference.scoring import as_read
from gptjax.look.asking import read_length
from gptjax.nn.decoding_weights import rows_of
from gptjax.nn.likelihood import logits_from
from gptjax.nn.model import INPUT, SEEN, Transformer, head

KEPT_BYTES = 2**30  # that the backward pass may find stored; beyond, each layer is computed anew


class Seen(NamedTuple):
    """What was seen of one text, float32."""

    prob_CnTS: np.ndarray  # share of each key in what a query takes; 0 where it may not look
    state_CTD: np.ndarray  # of the residual stream, behind each layer
    hidden_TD: Any  # after the last norm
    token: int  # whose probability was looked at
    log_prob: float  # nats: of it
    gradient_T: np.ndarray | None  # by how much that grows with each token's embedding, times this; None = not asked


def read(
    model: Transformer, params: Any, ids: Sequence[int], layers: Sequence[int], heads: Sequence[int], *,
    both: bool = False, at: int = -1, token: int | None = None, explains: bool = False,
) -> Seen:  # fmt: skip
    """Reads a text of ids once, its tokens seeing those before them, or with `both` all.

    `token`: whose probability behind place `at` is looked at; None = the likeliest there. `explains`: also goes back to
    the embeddings, from that probability.
    """
    config, size = model.config, len(ids)
    T = read_length(size, config.T)
    anew = explains and kept_bytes(config, T) > KEPT_BYTES
    plain = model.clone(kernel="xla", remat="full" if anew else "none")
    asked = np.int32(at % size), np.int32(-1 if token is None else token)
    padded_T = np.pad(np.array(ids, np.int32), (0, T - size))
    found = _seen(
        plain, params, padded_T, np.int32(size), np.bool_(both), _places(config, layers), np.array(heads, np.int32),
        *asked, C=len(layers), explains=explains,
    )  # fmt: skip
    prob_CnTS, state_CTD, hidden_TD, chosen, log_prob, gradient_T = found
    return Seen(
        np.asarray(prob_CnTS)[:-1, :, :size, :size], np.asarray(state_CTD)[:-1, :size], hidden_TD[:size], int(chosen),
        float(log_prob), None if gradient_T is None else np.asarray(gradient_T)[:size],
    )  # fmt: skip


def kept_bytes(config: ModelConfig, T: int) -> int:
    """About what a backward pass keeps of the forward pass, where it computes no layer anew."""
    return 4 * T * config.L * (8 * config.D + 2 * config.N * config.H + 3 * config.F + config.N * T)


@functools.partial(jax.jit, static_argnames=("model", "C", "explains"))
def _seen(model, params, ids_T, size, both, place_L, head_n, at, token, *, C, explains):
    T, config = ids_T.shape[0], model.config
    tokens_BT, position_BT = ids_T[None], jnp.arange(T)[None]
    segment_BT = (position_BT < size).astype(jnp.int32)
    embedded_BTD = rows_of(params["embedding"], tokens_BT, model.dtype)
    room = _room(config, 1, T, C, place_L, head_n)

    def run(shift_BTD):
        shifted = {} if shift_BTD is None else {"perturbations": {"embedded_BTD": shift_BTD}}
        (hidden_BTD, _), seen = model.apply(
            {"params": params, SEEN: {"layers": room}, **shifted},
            tokens_BT, segment_BT, position_BT, jnp.broadcast_to(both, (1, T)), mutable=[SEEN],
        )  # fmt: skip
        here_B1D = jax.lax.dynamic_slice_in_dim(hidden_BTD, at, 1, axis=1)
        logits_V = logits_from(here_B1D, head(params), config.vocabulary, config.logit_cap)[0, 0]
        chosen = jnp.where(token < 0, jnp.argmax(logits_V), token)
        return jax.nn.log_softmax(logits_V)[chosen], (hidden_BTD[0], seen[SEEN]["layers"], chosen)

    if explains:
        (log_prob, beside), slope_BTD = jax.value_and_grad(run, has_aux=True)(jnp.zeros_like(embedded_BTD))
        gradient_T = jnp.sum(slope_BTD * embedded_BTD, axis=-1, dtype=jnp.float32)[0]
    else:
        (log_prob, beside), gradient_T = run(None), None
    hidden_TD, seen, chosen = beside
    return seen["prob_CBnTS"][:, 0], seen["state_CBTD"][:, 0], hidden_TD, chosen, log_prob, gradient_T


def layer_states(
    model: Transformer, params: Any, tokens_BT: Any, length_B: Any, layers: tuple[Layer, ...], bidirectional: bool
) -> tuple[jax.Array, ...]:
    """States [B,T,D] of rows of `length_B` tokens, padded on the right, float32: an array for each of the layers, in
    their order. To be compiled into what is made of them, so that it is not held."""
    config, (B, T) = model.config, tokens_BT.shape
    blocks = [layer for layer in layers if isinstance(layer, int)]
    rows = as_read(tokens_BT, length_B, bidirectional)
    found: dict[Layer, Any] = {}
    if not blocks and EMBEDDING not in layers:  # the program of scores and embeddings
        found[FINAL], _ = model.apply({"params": params}, *rows)
    else:
        C = len(set(blocks))
        place_L, head_n = _places(config, sorted(set(blocks))), np.zeros(0, np.int32)
        room: dict[str, Any] = {"layers": _room(config, B, T, C, place_L, head_n)}
        if EMBEDDING in layers:
            room[INPUT] = jnp.zeros((B, T, config.D), jnp.float32)
        (found[FINAL], _), seen = model.clone(kernel="xla").apply({"params": params, SEEN: room}, *rows, mutable=[SEEN])
        found |= zip(sorted(set(blocks)), seen[SEEN]["layers"]["state_CBTD"][:C], strict=True)
        found[EMBEDDING] = seen[SEEN].get(INPUT)
    return tuple(found[layer].astype(jnp.float32) for layer in layers)


def _places(config: ModelConfig, layers: Sequence[int]) -> np.ndarray:
    """Where in the room each layer has its place: in the order asked; the others share the last."""
    place_L = np.full(config.L, len(layers), np.int32)
    place_L[list(layers)] = np.arange(len(layers))
    return place_L


def _room(config: ModelConfig, B: int, T: int, C: int, place_L: Any, head_n: Any) -> dict[str, Any]:
    """Room for C layers and one more, and in each for so many heads."""
    return {
        "place_L": place_L,
        "head_n": head_n,
        "prob_CBnTS": jnp.zeros((C + 1, B, head_n.shape[0], T, T), jnp.float32),
        "state_CBTD": jnp.zeros((C + 1, B, T, config.D), jnp.float32),
    }
