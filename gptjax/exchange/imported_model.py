"""A model in somebody else's files, once it is read and understood. Does not import JAX."""

import dataclasses
from typing import Any

from gptjax.config import ModelConfig
from gptjax.inference.generation_config import GenerationConfig
from gptjax.text.tokenizer import Tokenizer

SPARE_ROWS = 1023  # of the token table, without a token: many round their table up


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImportedModel:
    """A model of a Hugging Face folder or a GGUF file."""

    config: ModelConfig
    tokenizer: Tokenizer
    generation_config: GenerationConfig
    params: Any  # tree of NumPy arrays, float32
    credit: str | None = None  # what its texts ask to be said of them, where a file holds that too


def check_one_model(config: ModelConfig, tokenizer: Tokenizer, generation_config: GenerationConfig) -> None:
    """Raises ValueError where these cannot be of one model."""
    size, rows = tokenizer.size, config.vocabulary
    if not 0 <= rows - size <= SPARE_ROWS:
        raise ValueError(
            f"the tokenizer has {size} ids, the model's vocabulary {rows} (as many, or up to {SPARE_ROWS} more, "
            f"would do): they are not of one model"
        )
    if beyond := [id for id in generation_config.ends if not 0 <= id < rows]:
        raise ValueError(f"texts end with token id {beyond[0]}, beyond the model's vocabulary of {rows}")
