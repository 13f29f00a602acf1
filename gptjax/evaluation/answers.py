"""Whether an answer in free words is right: exact match and F1, on words, and on characters where a script has none."""

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Sequence

# scripts that are written without spaces: a character counts as a word
CHARACTER = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
ARTICLES = re.compile(rf"(?<![{CHARACTER}] )\b(a|an|the)\b")  # behind Chinese it is a letter, that of a vitamin for one
PIECE = re.compile(f"[{CHARACTER}]|[^{CHARACTER}\\s]+")


def normalised(text: str) -> str:
    """Small letters, without punctuation and English articles; wide forms of letters as narrow ones; single spaces.

    Of nothing but articles the last stays. SQuAD's script drops it, and only ASCII punctuation; all else is as there.

    Source: Rajpurkar et al. 2016, arXiv:1606.05250, section 6.1 (SQuAD: punctuation and articles are ignored); Cui et
    al. 2019, arXiv:1810.07366 (CMRC: Chinese by characters, Chinese punctuation ignored).
    """
    text = unicodedata.normalize("NFKC", text).lower()
    text = "".join(character for character in text if not _is_punctuation(character))
    found = text.split()
    return " ".join(ARTICLES.sub(" ", " ".join(found)).split() or found[-1:])


def _is_punctuation(character: str) -> bool:
    """Of any script; in ASCII also + < = > ^ ` | ~ and $, as the authors of SQuAD have it."""
    return character in string.punctuation or unicodedata.category(character).startswith("P")


def words(text: str) -> list[str]:
    """The words of a normalised text; each Chinese character and Japanese kana is one of its own."""
    return PIECE.findall(normalised(text))


def exact_match(answer: str, wanted: Sequence[str]) -> float:
    """1 if the answer is one of those wanted, once both are normalised; else 0. Spaces count only between words."""
    return float(any(words(answer) == words(one) for one in wanted))


def f1(answer: str, wanted: Sequence[str]) -> float:
    """Harmonic mean of precision and recall of the answer's words; against the one wanted that suits it best.

    Where either has no words, 1 if both have none, else 0.
    """
    return max(_f1(Counter(words(answer)), Counter(words(one))) for one in wanted)


def _f1(answer: Counter[str], wanted: Counter[str]) -> float:
    if not answer or not wanted:
        return float(answer == wanted)
    common = (answer & wanted).total()
    return 2 * common / (answer.total() + wanted.total())
