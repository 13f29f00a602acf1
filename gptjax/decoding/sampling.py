"""The settings of generation, checked when built. Does not import JAX, so that the command line shows them at once."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from gptjax.arguments import kind, real, text, whole


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sampling:
    """How text is drawn from a model's scores: bias, penalty, temperature, top-k, top-p and min-p, in this order."""

    tokens: int = 200
    """Draw at most so many tokens."""
    temperature: float | int = 0.8
    """0 always takes the likeliest token; 1 draws as the model believes; above 1 is wilder."""
    top_k: int | None = None
    """Draw from the k likeliest tokens only; None = from all."""
    top_p: float | int | None = 0.95
    """Draw from the fewest likeliest tokens that together have this probability; None = from all."""
    min_p: float | int | None = None
    """Draw from tokens that are at least so probable, compared with the likeliest; None = from all."""
    repetition_penalty: float | int | None = None
    """Above 1, tokens of the prompt and the text so far are less likely (1.2 is much), below 1 likelier; None = off."""
    presence_penalty: float | int = 0.0
    """Taken from the score of every token that the text so far has, in nats; the prompt does not count."""
    frequency_penalty: float | int = 0.0
    """The same, each time that the text has it."""
    logit_bias: Mapping[int | str, float | int] = dataclasses.field(default_factory=dict)
    """What is added to a token's score, in nats: " the" -5, or -inf for never. A whole number is a token's id."""
    stop: tuple[str, ...] = ()
    """End before the first of these strings. The name of a special token stands for that token."""
    seed: int = 0
    """The same seed gives the same text, another seed another text."""

    def __post_init__(self):
        self._check_kinds()
        if self.tokens < 1:
            raise ValueError(f"tokens={self.tokens}: must be at least 1")
        if not 0 <= self.temperature < float("inf"):
            raise ValueError(f"temperature={self.temperature}: must be 0 (the likeliest token) or more")
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k={self.top_k}: must be at least 1; None draws from all tokens")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ValueError(f"top_p={self.top_p}: must be above 0 and at most 1; None draws from all tokens")
        if self.min_p is not None and not 0 < self.min_p <= 1:
            raise ValueError(f"min_p={self.min_p}: must be above 0 and at most 1; None draws from all tokens")
        if self.repetition_penalty is not None and not 0 < self.repetition_penalty < float("inf"):
            raise ValueError(
                f"repetition_penalty={self.repetition_penalty}: must be above 0, such as 1.2; None changes nothing"
            )
        for name in ("presence_penalty", "frequency_penalty"):
            if not abs(getattr(self, name)) < float("inf"):
                raise ValueError(f"{name}={getattr(self, name)}: must be a number, such as 0.5; 0 changes nothing")
        for token, bias in self.logit_bias.items():
            if not bias < float("inf"):
                raise ValueError(f"logit_bias: token {token!r} has {bias}; must be a number, or -inf for never")
        if not all(self.stop):
            raise ValueError(f"stop={self.stop!r}: must be a tuple of strings, none of them empty")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed={self.seed}: must be at least 0 and below 2**32")

    def _check_kinds(self) -> None:
        """Makes Python's numbers of NumPy's, and a tuple of a list. Raises ValueError for what is of another kind."""
        found: dict[str, Any] = {name: whole(name, getattr(self, name)) for name in ("tokens", "seed")}
        for name in ("temperature", "presence_penalty", "frequency_penalty"):
            found[name] = real(name, getattr(self, name))
        for name, check in {"top_k": whole, "top_p": real, "min_p": real, "repetition_penalty": real}.items():
            if getattr(self, name) is not None:
                found[name] = check(name, getattr(self, name))
        if not isinstance(self.logit_bias, Mapping):
            raise ValueError(f"logit_bias={self.logit_bias!r}: must be token -> number, not {kind(self.logit_bias)}")
        found["logit_bias"] = {
            token if isinstance(token, str) else whole("logit_bias: token", token): real(f"logit_bias[{token!r}]", bias)
            for token, bias in self.logit_bias.items()
        }
        if not isinstance(self.stop, tuple | list):
            raise ValueError(f"stop={self.stop!r}: must be a tuple of strings, not {kind(self.stop)}")
        found["stop"] = tuple(text("stop", one) for one in self.stop)
        for name, value in found.items():
            object.__setattr__(self, name, value)
