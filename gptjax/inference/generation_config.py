"""How a model's texts begin and end, and how it talks. Does not import JAX."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from gptjax.text.tokenizer import Tokenizer


@dataclasses.dataclass(frozen=True, kw_only=True)
class GenerationConfig:
    """Of a model of ours: see `of_runs`; of somebody else's: what its files say.

    Unlike that of transformers it holds no sampling settings to be obeyed: these are arguments of `generate`.
    """

    ends: frozenset[int]  # ids that end a text
    begins_with_bos: bool = True
    # Jinja, as Hugging Face has it; None = lines of A and B, see gptjax.inference.chat
    chat_template: str | None = None
    # special tokens that a chat template may name: bos_token, eos_token and so on
    names: Mapping[str, str] = dataclasses.field(default_factory=dict)
    # what else its generation_config.json says; kept for exports, not obeyed
    generation: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @classmethod
    def of_runs(cls, tokenizer: Tokenizer) -> "GenerationConfig":
        """BOS in front, one EOS at the end, lines of A and B."""
        roles = {"bos": tokenizer.bos, "eos": tokenizer.eos, "pad": tokenizer.pad, "mask": tokenizer.mask}
        names = {f"{role}_token": tokenizer.token(id) for role, id in roles.items() if id is not None}
        return cls(ends=frozenset({tokenizer.eos}), names=names)
