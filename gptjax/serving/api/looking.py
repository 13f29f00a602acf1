"""The page of `gptjax look` for a request of /look, within bounds that leave memory and time to the texts under way."""

import jax

from gptjax.config import ModelConfig
from gptjax.inference.language_model import LanguageModel
from gptjax.look.asking import LENGTHS, layers_within, sees_both_ways, work
from gptjax.serving.errors import ApiError

MOST_TOKENS = 512
MOST_BYTES = 10**9  # of attention that is kept: as many layers are shown as that has room for
MOST_WORK = 5e12  # operations of a pass with its gradient, on a processor: about a minute of two cores


def check_length(length: int, config: ModelConfig) -> None:
    """Raises ApiError for a text that is too long."""
    most = min(MOST_TOKENS, config.T)
    while jax.default_backend() == "cpu" and most > LENGTHS and work(config, most) > MOST_WORK:
        most = max(LENGTHS, most - LENGTHS)
    if length > most:
        raise ApiError(
            f"prompt has {length} tokens, and at most {most} of this model are looked at here: give fewer, or use "
            "`gptjax look`",
            "prompt",
        )


def page(model: LanguageModel, ids: tuple[int, ...], token: int | None, name: str) -> bytes:
    """What `model.look` saves, of all heads of as many layers as there is room for. Raises ApiError. Slow."""
    layers = layers_within(model.config, len(ids), sees_both_ways(model.config, model.tokenizer), MOST_BYTES)
    try:
        return model.look(ids, layers=layers, token=token).page(name).encode()
    except ValueError as error:
        raise ApiError(str(error)[:500]) from None
