"""Tokens as a reader of a text can see them: by character, also where a token is part of one. Does not import JAX."""

import dataclasses
from collections.abc import Iterator, Sequence

from gptjax.text.tokenizer import Tokenizer

LONGEST = 4  # UTF-8 bytes of a character


@dataclasses.dataclass(frozen=True)
class Piece:
    """One token of a text."""

    id: int
    text: str  # its whole characters; of a special token its name
    parts: tuple[tuple[str, int, int], ...]  # characters that it is part of: (which, its number there, of how many)
    special: bool


def pieces(tokenizer: Tokenizer, ids: Sequence[int]) -> list[Piece]:
    """Every token of a text, in order. A byte that belongs to no character shows as its number: \\xff."""
    spellings = [b"" if id in tokenizer.special_ids else tokenizer.spelling(id) for id in ids]
    owner = [number for number, spelling in enumerate(spellings) for _ in spelling]  # of every byte
    whole: list[list[str]] = [[] for _ in ids]
    parts: list[list[tuple[str, int, int]]] = [[] for _ in ids]
    for first, last, character in _characters(b"".join(spellings)):
        tokens = list(dict.fromkeys(owner[first:last]))
        if len(tokens) == 1:
            whole[tokens[0]].append(character)
        else:
            for number, token in enumerate(tokens, start=1):
                parts[token].append((character, number, len(tokens)))
    return [
        Piece(id, tokenizer.token(id), (), True)
        if id in tokenizer.special_ids
        else Piece(id, "".join(whole[number]), tuple(parts[number]), False)
        for number, id in enumerate(ids)
    ]


def token_label(tokenizer: Tokenizer, id: int) -> str:
    """One token alone, in a table: its text, its name, or its bytes where it is part of a character."""
    if id in tokenizer.special_ids:
        return tokenizer.token(id)
    return "".join(character for _, _, character in _characters(tokenizer.spelling(id)))


def _characters(content: bytes) -> Iterator[tuple[int, int, str]]:
    """(first byte, one past the last, what it shows as) of every character."""
    place = 0
    while place < len(content):
        for size in range(1, LONGEST + 1):
            try:
                character = content[place : place + size].decode()
            except UnicodeDecodeError:
                continue
            break
        else:
            size, character = 1, f"\\x{content[place]:02x}"
        yield place, place + size, character
        place += size
