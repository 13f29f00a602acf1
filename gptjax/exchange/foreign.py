"""A model in somebody else's files, once it is read and understood. Does not import JAX."""

import dataclasses
from typing import Any

from gptjax.config import ModelConfig
from gptjax.inference.habits import Habits
from gptjax.text.tokenizer import Tokenizer

SPARE_ROWS = 1023  # of the token table, without a token: many round their table up


@dataclasses.dataclass(frozen=True, kw_only=True)
class Foreign:
    """A model of a Hugging Face folder or a GGUF file."""

    config: ModelConfig
    tokenizer: Tokenizer
    habits: Habits
    params: Any  # tree of NumPy arrays, float32


def check_one_model(config: ModelConfig, tokenizer: Tokenizer, habits: Habits) -> None:
    """Raises ValueError where these cannot be of one model."""
    size, rows = tokenizer.size, config.vocabulary
    if not 0 <= rows - size <= SPARE_ROWS:
        raise ValueError(
            f"the tokenizer has {size} ids, the model's vocabulary {rows} (as many, or up to {SPARE_ROWS} more, "
            f"would do): they are not of one model"
        )
    if beyond := [id for id in habits.ends if not 0 <= id < rows]:
        raise ValueError(f"texts end with token id {beyond[0]}, beyond the model's vocabulary of {rows}")
