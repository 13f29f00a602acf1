"""Which vectors of texts are asked for, and what is read of each text: checked before anything slow. No JAX."""

from collections.abc import Sequence
from typing import Any, Literal, get_args

from gptjax import arguments
from gptjax.config import ModelConfig
from gptjax.inference.generation_config import GenerationConfig
from gptjax.inference.prompt import encode_prompts
from gptjax.spelling import did_you_mean
from gptjax.text.tokenizer import Tokenizer

EMBEDDING, FINAL = "embedding", "final"
# A number, from 0: the states behind that layer. These two: what the first one reads, and what the last norm gives.
Layer = int | Literal["embedding", "final"]
Pooling = Literal["mean", "last", "weighted"]  # which vector of the states: see gptjax.nn.pooling.pooled


def check_reading(config: ModelConfig, layer: Any, pool: Any, length: Any) -> None:
    """Raises ValueError for a layer, a pool or a length that this model does not have."""
    words = (EMBEDDING, FINAL, *map(str, range(config.L)))
    if isinstance(layer, str):
        if layer not in (EMBEDDING, FINAL):
            raise ValueError(f"layer={layer!r}: this model has no such layer{did_you_mean(layer, words)}")
    elif not 0 <= arguments.whole("layer", layer) < config.L:
        raise ValueError(
            f"layer={layer}: this model has layers 0 to {config.L - 1}, {EMBEDDING!r} before them and {FINAL!r} behind"
        )
    if pool is not None and pool not in get_args(Pooling):
        raise ValueError(f"pool={pool!r}{did_you_mean(str(pool), get_args(Pooling))}; or None, a vector for each token")
    if length is not None and not 1 <= arguments.whole("length", length) <= config.T:
        raise ValueError(f"length={length}: must be from 1 to {config.T} tokens, this model's context")


def feature_ids(
    config: ModelConfig, tokenizer: Tokenizer, generation_config: GenerationConfig, texts: Sequence[str],
    names: Sequence[str], length: int | None,
) -> list[list[int]]:  # fmt: skip
    """What is read of each text, its first `length` tokens, None = all; `names`: what errors call them.

    Raises ValueError for a text that is empty, beyond the context, or has a token beyond the vocabulary.
    """
    for name, text in zip(names, texts, strict=True):
        if not arguments.text(name, text).strip():
            raise ValueError(f"{name}: is empty; leave it out")
    found = [ids[:length] for ids in encode_prompts(tokenizer, generation_config, texts)]
    for name, ids in zip(names, found, strict=True):
        if len(ids) > config.T:
            raise ValueError(
                f"{name}: has {len(ids)} tokens; this model's context holds {config.T}: give a length of {config.T} or "
                "less, and only so many of each text are read"
            )
        if (last := max(ids)) >= config.vocabulary:
            raise ValueError(f"{name}: has token id {last}, beyond the vocabulary of {config.vocabulary}")
    return found
