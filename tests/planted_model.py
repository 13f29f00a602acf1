"""A model whose heads do what was written into its weights by hand: one of each role, in two layers of two heads.

The residual stream has a place for each token (260 bytes), for each token that came before, and for each position.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from gptjax.config import ModelConfig
from gptjax.inference.language_model import LanguageModel
from gptjax.nn.model import Transformer, init_params
from gptjax.text.tokenizer import byte_tokenizer

T, TOKENS, H = 64, 260, 300
BEFORE, PLACE, D = TOKENS, 2 * TOKENS, 2 * H  # where the parts begin
PLANTED = {(0, 0): "previous token", (0, 1): "same word", (1, 0): "first token", (1, 1): "induction"}


@functools.cache
def planted_model(without: tuple[int, int] | None = None) -> LanguageModel:
    """`without`: a head (layer, head) whose queries are 0, so that it looks at all alike."""
    config = ModelConfig(
        T=T, D=D, L=2, N=2, K=2, F=8, family="gpt2", activation="gelu", qk_norm=False, vocabulary=TOKENS
    )
    shapes = nn.unbox(jax.eval_shape(lambda: init_params(Transformer(config), jax.random.key(0))))
    params = jax.tree_util.tree_map_with_path(_still, shapes)
    params["embedding"][:TOKENS, :TOKENS] = np.eye(TOKENS)
    params["position_embedding"][:, PLACE : PLACE + T] = np.eye(T)
    layers = params["layers"]
    query, key, value, out = (layers[name] for name in ("query", "key", "value", "attention_out"))
    token, place = np.arange(TOKENS), np.arange(T)
    query[0, PLACE + place[1:], place[:-1]] = key[0, PLACE + place, place] = 1  # at p looks for p - 1
    value[0, token, token] = out[0, token, BEFORE + token] = 0.25  # and writes down which token stood there
    query[0, token, H + token] = key[0, token, H + token] = 1
    layers["query_bias"][1, 0], key[1, PLACE, 0] = 12, 1
    query[1, token, H + token] = key[1, BEFORE + token, H + token] = 1  # looks for its own token before another
    if without is not None:
        layer, head = without
        query[layer, :, head * H : (head + 1) * H] = 0
    return LanguageModel(config, byte_tokenizer(), jax.tree.map(jnp.asarray, params))


def _still(path, leaf):
    """Norms that change nothing, and 0 for all else."""
    return np.full(leaf.shape, path[-1].key == "scale", np.float32)
