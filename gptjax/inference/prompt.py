"""The ids of a prompt: where BOS goes before a text, and where it does not. Does not import JAX."""

from collections.abc import Sequence

from gptjax.inference.generation_config import GenerationConfig
from gptjax.text.tokenizer import Tokenizer


def encode_prompts(tokenizer: Tokenizer, generation_config: GenerationConfig, texts: Sequence[str]) -> list[list[int]]:
    """The ids of plain texts, behind BOS where texts begin with it; of a text without tokens, BOS in any case.

    Names of special tokens in them stay characters, so that none begins with a BOS of its own.
    """
    first = [tokenizer.bos] if generation_config.begins_with_bos else []
    return [[*first, *ids] or [tokenizer.bos] for ids in tokenizer.encode_batch(texts)]


def encode_rendered(tokenizer: Tokenizer, text: str) -> list[int]:
    """The ids of what a chat template wrote: it spells its special tokens, BOS too, and nothing goes before them."""
    return tokenizer.encode_spelt(text) or [tokenizer.bos]
