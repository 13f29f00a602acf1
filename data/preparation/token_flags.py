"""Where words start and sentences end in texts, and in which tokens: what tasks need and a row of ids no longer shows.

Texts come many at a time, since numpy costs as much for one as for many; what is found in one never depends on the
others. Axes of this file: D texts  U characters of them all, joined  T their tokens, joined  W words  S sentences.
"""

import functools
import itertools
import re
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import rjieba
import sentencex
import unicode_segmentation_rs as unicode_segmentation

from gptjax.text.tokenizer import Tokenizer

WORD_START, SENTENCE_END = 1, 2  # bits of a mark
LEARNED, ASKED, ENCODED = 4, 8, 16  # in examples alone: is learnt; is of what a user says; is seen from both sides
WRAPPED = 40  # characters above which a line may be one of a wrapped paragraph
HAN = re.compile("[\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")


def marks(
    texts: Sequence[str], encoded: Sequence[Sequence[int]], tokenizer: Tokenizer, language: str | None
) -> np.ndarray:
    """The mark of each token: WORD_START if a word starts in it, SENTENCE_END if a sentence ends in it; u8 [T].

    `encoded` holds the ids of each text. A character that is spelt in several tokens is marked at the first.
    `language` as in `sentence_ends`.
    """
    mark_T = np.zeros(sum(map(len, encoded)), np.uint8)
    if len(mark_T):
        starts, ends = word_starts(texts), sentence_ends(texts, language)
        tokens = _tokens_of(np.concatenate([starts, ends]), texts, encoded, tokenizer)
        mark_T[tokens[: len(starts)]] |= WORD_START
        mark_T[tokens[len(starts) :]] |= SENTENCE_END
    return mark_T


def word_marks(encoded: Sequence[Sequence[int]], tokenizer: Tokenizer) -> np.ndarray:
    """WORD_START for each token in which a word starts, of ids that may hold special tokens, which end words; u8 [T].

    Of examples, whose text the ids are all that there is of. None in one that ends within a character.
    """
    spelt_V = _spellings(tokenizer)
    texts = []
    for ids in encoded:
        spelt = b"".join(map(spelt_V.__getitem__, ids))
        try:
            texts.append(spelt.decode())
        except UnicodeDecodeError:
            texts.append("\n" * len(spelt))
    mark_T = np.zeros(sum(map(len, encoded)), np.uint8)
    if any(texts):
        length_V = np.array([*map(len, spelt_V)])
        stop_T = length_V[np.fromiter(itertools.chain.from_iterable(encoded), np.int64)].cumsum()
        codes_U, starts = _codes(texts), word_starts(texts)
        stop_U = _utf8_lengths(codes_U).cumsum()
        mark_T[np.searchsorted(stop_T, np.where(starts, stop_U[starts - 1], 0), side="right")] = WORD_START
    return mark_T


def word_starts(texts: Sequence[str]) -> np.ndarray:
    """The characters at which a word starts: Chinese ones as jieba cuts them, others as Unicode does; i64 [W].

    The characters decide, not the language of the source. Japanese is cut by jieba where it is written in Chinese
    characters, and kana by kana elsewhere.

    Source: Unicode Standard Annex 29, section 4; jieba 0.42 (its dictionary and hidden Markov model).
    """
    codes_U = _codes(texts)
    start_U = _starts(map(unicode_segmentation.split_word_bounds, texts), len(codes_U))
    if any(map(HAN.search, texts)):
        jieba_U = _starts((rjieba.cut(text) if HAN.search(text) else [text] for text in texts), len(codes_U))
        start_U = np.where(_all_that(_is_han)[codes_U], jieba_U, start_U)
    return np.flatnonzero(start_U & _all_that(_begins_words)[codes_U])


def sentence_ends(texts: Sequence[str], language: str | None = None) -> np.ndarray:
    """The last character of each sentence, a closing quote included; i64 [S].

    `language` chooses the abbreviations that end no sentence; None = English. The end of a line ends a sentence too, as
    in titles, speeches and code; not so where a long line goes on in lower case, which is a wrapped paragraph.
    """
    codes_U = _codes(texts)
    begin_D = np.array([0, *itertools.accumulate(map(len, texts))])
    found = [
        begin + sentence["end_index"]
        for text, begin in zip(texts, begin_D.tolist(), strict=False)
        for sentence in sentencex.get_sentence_boundaries(language or "en", text)
    ]
    breaks = np.flatnonzero(codes_U == ord("\n"))
    edges = np.union1d(breaks, begin_D - 1)
    lengths = breaks - edges[np.searchsorted(edges, breaks) - 1]
    goes_on = _all_that(str.islower)[codes_U[np.minimum(breaks + 1, len(codes_U) - 1)]]
    stops = np.concatenate([np.array(found, np.int64), breaks[~goes_on | (lengths <= WRAPPED)], begin_D])
    visible_U = np.where(_all_that(str.isspace)[codes_U], -1, np.arange(len(codes_U)))
    ends = np.maximum.accumulate(visible_U)[stops[stops > 0] - 1]  # the stop may lie behind white space
    return np.unique(ends[ends >= 0])


def _codes(texts: Sequence[str]) -> np.ndarray:
    """Code points, u32 [U]."""
    return np.frombuffer("".join(texts).encode("utf-32-le"), "<u4")


def _starts(pieces_D: Iterable[Sequence[str]], count: int) -> np.ndarray:
    """True where a piece starts; the pieces make up the texts. bool [U]"""
    start_U = np.zeros(count + 1, bool)
    start_U[0] = True
    start_U[np.fromiter(map(len, itertools.chain.from_iterable(pieces_D)), np.int64).cumsum()] = True
    return start_U[:count]


@functools.cache
def _all_that(test: Callable[[str], bool]) -> np.ndarray:
    """The answer of a test for every code point; bool [0x110000]."""
    return np.fromiter(map(test, map(chr, range(0x110000))), bool, 0x110000)


def _is_han(character: str) -> bool:
    return HAN.match(character) is not None


def _begins_words(character: str) -> bool:
    return character.isalnum() or character == "_"  # as names in code may


def _tokens_of(
    characters: np.ndarray, texts: Sequence[str], encoded: Sequence[Sequence[int]], tokenizer: Tokenizer
) -> np.ndarray:
    """The token in which each of the characters begins; the last one of the text for what the tokenizer drops."""
    if tokenizer.exact:
        codes_U = _codes(texts)
        stop_U = _utf8_lengths(codes_U).cumsum()
        ids_T = np.fromiter(itertools.chain.from_iterable(encoded), np.int64)
        stop_T = _byte_lengths(tokenizer)[ids_T].cumsum()
        return np.searchsorted(stop_T, np.where(characters, stop_U[characters - 1], 0), side="right")
    text_stop_D = np.array([*itertools.accumulate(map(len, texts))])
    begins = [0, *text_stop_D.tolist()]
    located = zip(begins, map(tokenizer.offsets, texts), strict=False)
    stop_T = np.array([begin + stop for begin, offsets in located for _, stop in offsets])
    last_D = np.array([*itertools.accumulate(map(len, encoded))]) - 1
    of_text = np.searchsorted(text_stop_D, characters, side="right")
    return np.minimum(np.searchsorted(stop_T, characters, side="right"), last_D[of_text])


def _utf8_lengths(codes_U: np.ndarray) -> np.ndarray:
    """Bytes of each code point."""
    return 1 + (codes_U >= 0x80) + (codes_U >= 0x800) + (codes_U >= 0x10000)


@functools.lru_cache(maxsize=1)
def _spellings(tokenizer: Tokenizer) -> list[bytes]:
    """The bytes of every id; of a special token the end of a line."""
    special = tokenizer.special_ids
    return [b"\n" if id in special else tokenizer.spelling(id) for id in range(tokenizer.size)]


@functools.lru_cache(maxsize=1)
def _byte_lengths(tokenizer: Tokenizer) -> np.ndarray:
    return np.array(tokenizer.byte_lengths())
