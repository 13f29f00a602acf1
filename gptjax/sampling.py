"""The settings of generation, checked when built. Does not import JAX, so that the command line shows them at once."""

import dataclasses


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sampling:
    """How text is drawn from a model's scores."""

    tokens: int = 200
    """Draw at most so many tokens."""
    temperature: float | int = 0.8
    """0 always takes the likeliest token; 1 draws as the model believes; above 1 is wilder."""
    top_k: int | None = None
    """Draw from the k likeliest tokens only; None = from all."""
    top_p: float | int | None = 0.95
    """Draw from the fewest likeliest tokens that together have this probability; None = from all."""
    stop: tuple[str, ...] = ()
    """End before the first of these strings."""
    seed: int = 0
    """The same seed gives the same text, another seed another text."""

    def __post_init__(self):
        if self.tokens < 1:
            raise ValueError(f"tokens={self.tokens}: must be at least 1")
        if not 0 <= self.temperature < float("inf"):
            raise ValueError(f"temperature={self.temperature}: must be 0 (the likeliest token) or more")
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k={self.top_k}: must be at least 1; None draws from all tokens")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ValueError(f"top_p={self.top_p}: must be above 0 and at most 1; None draws from all tokens")
        if isinstance(self.stop, str) or not all(self.stop):
            raise ValueError(f"stop={self.stop!r}: must be a tuple of strings, none of them empty")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed={self.seed}: must be at least 0 and below 2**32")
