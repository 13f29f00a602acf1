"""Tokens as they are mistyped, and what they are made of: tables over a vocabulary, made once.

Axes: V vocabulary  K variants of a token.
"""

import functools
import re
import string
import unicodedata
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from data.token_store import scramble
from gptjax.text.tokenizer import Tokenizer

VARIANTS = 8  # of each token
SWAPPED, DOUBLED, LEFT_OUT, REPLACED = range(4)


class Misspellings(NamedTuple):
    """Of every token some wrong spellings, as tokens."""

    tokens: np.ndarray  # i32: of all of them, one after another
    begin_VK: np.ndarray  # i64
    length_VK: np.ndarray  # i64; 0 = there is none


@functools.lru_cache(maxsize=1)
def misspellings(tokenizer: Tokenizer) -> Misspellings:
    """Each with one edit at a random letter: two are swapped, one is doubled, left out, or another of its script.

    A token that is part of a character, or without letters, has none.
    """
    shape = (tokenizer.size, VARIANTS)
    lot_VK = scramble(np.arange(shape[0] * VARIANTS), 1).reshape(shape)
    alphabet = _alphabets(tokenizer)
    places, wrong = [], []
    for id, text in enumerate(_texts(tokenizer)):
        at = [place for place, character in enumerate(text or "") if character.isalnum()]
        for k, lot in enumerate(lot_VK[id].tolist() if at else ()):
            edited = _edited(text or "", at, lot, alphabet)
            if edited != text:
                places.append((id, k))
                wrong.append(edited)
    spelt = [tokenizer.spelling(id) for id in range(tokenizer.size)]
    length_VK, begin_VK = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    tokens: list[int] = []
    for place, edited, ids in zip(places, wrong, tokenizer.encode_batch(wrong), strict=True):
        if b"".join(spelt[id] for id in ids) == edited.encode():  # else it is not itself within a text
            begin_VK[place], length_VK[place] = len(tokens), len(ids)
            tokens += ids
    return Misspellings(np.array(tokens, np.int32), begin_VK, length_VK)


def _edited(text: str, at: list[int], lot: int, alphabet: Mapping[str, Sequence[str]]) -> str:
    """The text with one of the characters at `at` changed, as the lot, of 64 bits, has it."""
    lot, number = divmod(lot, len(at))
    lot, kind = divmod(lot, 4)
    place = at[number]
    before, here, behind = text[:place], text[place], text[place + 1 :]
    if kind == SWAPPED and place + 1 in at:
        return before + behind[0] + here + behind[1:]
    if kind == DOUBLED and len(at) > 1:
        return before + here + here + behind
    if kind == LEFT_OUT and len(at) > 1:
        return before + behind
    others = alphabet[_script(here)]
    return before + others[lot % len(others)] + behind


def misspelt(text: str, share: float, alphabet: Mapping[str, Sequence[str]], seed: int) -> str:
    """The text with so many of its letters typed wrong, by the same edits; `alphabet`: script -> its characters."""
    draw, parts = np.random.default_rng(seed), re.split(r"([^\W_]+)", text)  # each second one is a word
    for number in range(1, len(parts), 2):
        for _ in range(draw.binomial(len(parts[number]), share)):
            word = parts[number]
            parts[number] = _edited(word, [*range(len(word))], int(draw.integers(2**63)), alphabet)
    return "".join(parts)


@functools.lru_cache(maxsize=1)
def _texts(tokenizer: Tokenizer) -> list[str | None]:
    """The text of every token; None of one that is special, or part of a character."""
    found: list[str | None] = []
    for id in range(tokenizer.size):
        try:
            found.append(tokenizer.spelling(id).decode() or None)
        except UnicodeDecodeError:
            found.append(None)
    return found


def _alphabets(tokenizer: Tokenizer) -> dict[str, list[str]]:
    """Script -> the characters of it that the vocabulary writes; of Latin letters a to z."""
    return alphabets_of("".join(text or "" for text in _texts(tokenizer)))


def alphabets_of(text: str) -> dict[str, list[str]]:
    """Script -> the characters of it that a text has; of Latin letters a to z."""
    found: dict[str, set[str]] = defaultdict(set)
    for character in {*text}:
        if character.isalnum():
            found[_script(character)].add(character)
    return {name: sorted(characters) for name, characters in found.items()} | {
        "LATIN": [*string.ascii_lowercase], "DIGIT": [*string.digits],
    }  # fmt: skip


def _script(character: str) -> str:
    """By its name: LATIN, CJK, CYRILLIC, DIGIT."""
    return unicodedata.name(character, "?").partition(" ")[0]


@functools.lru_cache(maxsize=1)
def is_bare(tokenizer: Tokenizer) -> np.ndarray:
    """Of every token, whether it is punctuation or space alone; bool [V]."""
    return np.array([text is not None and not any(map(str.isalnum, text)) for text in _texts(tokenizer)])


@functools.lru_cache(maxsize=1)
def begins_with_space(tokenizer: Tokenizer) -> np.ndarray:
    """Of every token; bool [V]."""
    return np.array([(text or "").startswith(" ") for text in _texts(tokenizer)])


@functools.lru_cache(maxsize=1)
def begins_chinese(tokenizer: Tokenizer) -> np.ndarray:
    """Of every token, whether it begins with a Chinese character or kana, or a part of one, by its first byte; [V]."""
    first = [(tokenizer.spelling(id) or b"\0")[0] for id in range(tokenizer.size)]
    return np.array([0xE3 <= byte <= 0xE9 or byte == 0xF0 for byte in first])


@functools.lru_cache(maxsize=1)
def letters(tokenizer: Tokenizer) -> np.ndarray:
    """Of every token, how many letters and digits it has; i64 [V]."""
    return np.array([sum(map(str.isalnum, text or "")) for text in _texts(tokenizer)])
