"""How single tokens are shown beside their log-probabilities."""

import dataclasses
import functools
from collections.abc import Iterable

from gptjax.text.tokenizer import Tokenizer

LEAST = -9999.0  # nats, for a token that cannot be: JSON has no infinity, and this is OpenAI's number for it


@dataclasses.dataclass(frozen=True)
class TokenText:
    """`name`: its text, its name if it is special, or `bytes:\\xe6\\x9b` where it is part of a character.

    `spelling`: the bytes that it adds to a text.
    """

    name: str
    spelling: bytes
    special: bool


class TokenTexts:
    """Those of one tokenizer, each worked out once."""

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer = tokenizer
        self.of = functools.cache(self._of)

    def _of(self, id: int) -> TokenText:
        spelling, special = self._tokenizer.spelling(id), id in self._tokenizer.special_ids
        try:
            name = self._tokenizer.token(id) if special else spelling.decode()
        except UnicodeDecodeError:
            name = "bytes:" + "".join(f"\\x{byte:02x}" for byte in spelling)
        return TokenText(name, spelling, special)

    def named(self, scored: Iterable[tuple[int, float]]) -> dict[str, float]:
        """{name: nats} of different tokens; one whose name another has already is `token_id:` and its id."""
        found: dict[str, float] = {}
        for id, nats in scored:
            name = self.of(id).name
            found[f"token_id:{id}" if name in found else name] = finite(nats)
        return found


def finite(nats: float) -> float:
    return max(nats, LEAST)
