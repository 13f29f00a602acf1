"""How a model's texts begin and end, and how it talks. Does not import JAX."""

import dataclasses


@dataclasses.dataclass(frozen=True, kw_only=True)
class Habits:
    """How a model's texts begin and end, and how it talks."""

    ends: frozenset[int]  # ids that end a text
    begins_with_bos: bool = True
    chat_template: str | None = None  # Jinja, as Hugging Face has it; None = lines of A and B, see gptjax.chat
