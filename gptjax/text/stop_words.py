"""Texts without their stop words: the commonest words of a language, of which a bag of words learns little.

The lists are those of the package stopwordsiso (58 languages, MIT), which is imported only here and only when asked
for. They are broad: "not" is on the English one, and telling praise from blame without it is harder.
"""

import functools
import importlib.util
import itertools
import re
import unicodedata
from collections.abc import Iterator
from typing import NamedTuple

from gptjax.spelling import did_you_mean

NEEDS = "pip install stopwordsiso rjieba, or the extra `words` of gptjax"
UNCUT = {"ja": "Japanese", "th": "Thai"}  # written without spaces, and nothing here finds their words
ELIDING = {"ca", "fr", "it"}  # l'homme is two words
APOSTROPHES = "'’"
STOPS, SEPARATORS, OPENING, CLOSING = ".!?。！？…।؟", ",;:，；：、،؛", "([{«“‘「『（《【¿¡", ")]}»”’」』）》】"
PAIRS = {*map("".join, zip("([{«“‘「『（《【", ")]}»”’」』）》】", strict=True)), '""'}


class Word(NamedTuple):
    """A word of a text, by its characters."""

    begin: int
    end: int


def check_stop_words(language: str) -> None:
    """Raises ValueError, before slow work, for a language without a list or without what finds its words."""
    listed(language)
    if language == "zh" and importlib.util.find_spec("rjieba") is None:
        raise ValueError(f"stop_words='zh': Chinese words are found by rjieba, which is not installed: {NEEDS}")


@functools.cache
def listed(language: str) -> frozenset[str]:
    """The stop words of a language (ISO 639-1, as "en"), in lower case, a phrase with single spaces.

    Raises ValueError for a language that has none, naming those that have.
    """
    try:
        import stopwordsiso
    except ModuleNotFoundError:
        raise ValueError(f"stop_words={language!r}: the lists are not installed: {NEEDS}") from None
    known = stopwordsiso.langs() - UNCUT.keys()
    if language in UNCUT:
        raise ValueError(
            f"stop_words={language!r}: {UNCUT[language]} is written without spaces, and nothing here finds its words; "
            f"leave it out; known: {', '.join(sorted(known))}"
        )
    if language not in known:
        near = did_you_mean(language, known)
        raise ValueError(
            f"stop_words={language!r}: there is no list of that language; write its code, such as en{near}"
            f"{'' if 'known' in near else f'; known: {", ".join(sorted(known))}'}"
        )
    return frozenset(" ".join(_key(word).rstrip(".").split()) for word in stopwordsiso.stopwords(language)) - {""}


def without_stop_words(text: str, language: str) -> str:
    """The text without the stop words of a language (ISO 639-1), capitals or not.

    Space and punctuation around them is joined so that it can be read: of two separators one stays, brackets with
    nothing in them go. Chinese words are those of rjieba. A text of nothing but stop words stays as it is.

    Raises ValueError as `check_stop_words` does.
    """
    check_stop_words(language)
    stop_words, words = listed(language), list(_words(text, language))
    taken = _taken(text, words, stop_words)
    if len(taken) == len(words) or not taken:
        return text
    out, gap, end = [], "", 0
    for number, word in enumerate(words):
        before = text[end : word.begin]
        # what stood on both sides of words that went
        gap = _joined(gap, before, at_start=not out) if number and number - 1 in taken else before
        end = word.end
        if number not in taken:
            out += [gap, text[word.begin : word.end]]
    rest = text[end:]
    out.append(_joined(gap, rest, at_start=False).rstrip(" ") if len(words) - 1 in taken else rest)
    return "".join(out)


def _taken(text: str, words: list[Word], stop_words: frozenset[str]) -> set[int]:
    """The numbers of the words that are stop words, alone or as a phrase, the longest phrase first."""
    keys = [_key(text[word.begin : word.end]) for word in words]
    spaced = [text[one.end : other.begin].isspace() for one, other in itertools.pairwise(words)]
    longest = max(word.count(" ") + 1 for word in stop_words)
    taken, at = set(), 0
    while at < len(words):
        for count in range(min(longest, len(words) - at), 0, -1):
            if all(spaced[at : at + count - 1]) and " ".join(keys[at : at + count]) in stop_words:
                taken |= set(range(at, at + count))
                at += count - 1
                break
        at += 1
    return taken


def _words(text: str, language: str) -> Iterator[Word]:
    if language == "zh":
        import rjieba

        begin = 0
        for piece in rjieba.cut(text):
            if any(map(str.isalnum, piece)):
                yield Word(begin, begin + len(piece))
            begin += len(piece)
        return
    for found in _pattern().finditer(text):
        begin, end = found.span()
        if language in ELIDING and _key(found.group()) not in listed(language):
            for mark in re.finditer(f"[{APOSTROPHES}]", found.group()):
                yield Word(begin, found.start() + mark.end())
                begin = found.start() + mark.end()
        if "." in found.group() and text[end : end + 1] == ".":  # i.e.
            end += 1
        yield Word(begin, end)


@functools.cache
def _pattern() -> re.Pattern[str]:
    """A word: letters, digits, marks on them (none of Python's \\w), joined by ' - . and joiners."""
    marks = "".join(chr(code) for code in range(0x300, 0x1F000) if unicodedata.category(chr(code))[0] == "M")
    of_word = rf"(?:[^\W_]|[{re.escape(marks)}])"
    return re.compile(rf"[^\W_](?:{of_word}|[{APOSTROPHES}.\-\u2010\u2011\u200c\u200d](?=[^\W_]))*")


def _key(word: str) -> str:
    """As it is looked up: in lower case, accents composed, straight apostrophes, none at its end, nor a full stop."""
    lower = unicodedata.normalize("NFC", word.lower().replace("’", "'"))
    return lower.rstrip("'.") or lower


def _joined(left: str, right: str, *, at_start: bool) -> str:
    """What stands between two words, of what stood on both sides of one that went between them."""
    if left[-1:] and left[-1:] in OPENING:
        right = right.lstrip(" ")
    elif right[:1] and right[:1] in STOPS + SEPARATORS + CLOSING:  # it stood at the word that went
        left = left.rstrip(" ")
    while left[-1:] + right[:1] in PAIRS:  # with nothing in it
        left, right = left[:-1].rstrip(" "), right[1:]
    mark, follows = left.rstrip()[-1:], right.lstrip()[:1]
    if mark and follows and mark in STOPS and follows in STOPS + SEPARATORS:  # a stop says enough
        right = right.lstrip(" ").lstrip(STOPS + SEPARATORS)
    elif mark and follows and mark in SEPARATORS and follows in STOPS + SEPARATORS:  # of two the second
        left = left.rstrip(" ").rstrip(SEPARATORS)
        right = right.lstrip(" ")
    both = re.sub(r" *\n *", "\n", re.sub(r" {2,}", " ", left + right))
    if at_start:
        both = re.sub(rf"^[\s{SEPARATORS}{STOPS}]+", "", both)
    return both
