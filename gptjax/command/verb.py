"""What a word after `gptjax` does."""

import abc


class Verb(abc.ABC):
    """Implemented by frozen dataclasses: docstring and fields are its help, made before JAX is imported."""

    @abc.abstractmethod
    def run(self) -> None: ...
