"""How near written texts are to the ones wanted: BLEU and chrF by sacrebleu, ROUGE, exact match and F1 here.

ROUGE is computed here because its usual package, rouge-score, has not been released since 2022, brings nltk for a
stemmer that is off by default, and takes texts of other letters than a to z for empty. On English both give the same
numbers: tests/gptjax/evaluation/test_text_figures.py.
"""

import functools
import importlib.util
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from gptjax.evaluation.answers import CHARACTER, exact_match, f1

NEEDS = "pip install sacrebleu, or the extra `figures` of gptjax"
TITLES = {  # figure -> how people call it; all of them 0 to 100, higher is better
    "bleu": "BLEU", "chrf": "chrF", "rouge1": "ROUGE-1", "rouge2": "ROUGE-2", "rougeL": "ROUGE-L",
    "exact": "exact match", "f1": "F1",
}  # fmt: skip
BY_SACREBLEU = ("bleu", "chrf")
WORD = re.compile(rf"[{CHARACTER}]|[^\W_{CHARACTER}]+")
KANA = re.compile("[\u3040-\u30ff]")


class Rouge(NamedTuple):
    """F-scores, 0 to 1."""

    rouge1: float
    rouge2: float
    rougeL: float


def text_figures(names: Sequence[str], written: Sequence[str], wanted: Sequence[str]) -> dict[str, float]:
    """Figures of TITLES by name, 0 to 100: of all texts together (BLEU, chrF), or the mean over them.

    Chinese is compared by characters, in BLEU by sacrebleu's `zh`. Raises ValueError for an unknown figure, for no
    texts at all, and for BLEU and chrF where sacrebleu is not installed.
    """
    if unknown := [name for name in names if name not in TITLES]:
        raise ValueError(f"figures: {unknown[0]!r} is unknown; known: {', '.join(TITLES)}")
    if not wanted:
        raise ValueError("figures: there is no text to measure by; hold some examples out (--examples.held_out)")
    found = {}
    if {*BY_SACREBLEU} & {*names}:
        found |= _by_sacrebleu(written, wanted)
    pairs = list(zip(written, wanted, strict=True))
    if {*Rouge._fields} & {*names}:
        rouges = [rouge(one, other) for one, other in pairs]
        found |= {name: 100 * sum(getattr(one, name) for one in rouges) / len(pairs) for name in Rouge._fields}
    found["exact"] = 100 * sum(exact_match(one, [other]) for one, other in pairs) / len(pairs)
    found["f1"] = 100 * sum(f1(one, [other]) for one, other in pairs) / len(pairs)
    return {name: found[name] for name in names}


def computable(names: Collection[str]) -> tuple[str, ...]:
    """Those of the figures that can be computed here: neither BLEU nor chrF where sacrebleu is not installed."""
    is_there = importlib.util.find_spec("sacrebleu") is not None
    return tuple(name for name in names if is_there or name not in BY_SACREBLEU)


def _by_sacrebleu(written: Sequence[str], wanted: Sequence[str]) -> Mapping[str, float]:
    """Source: Post 2018, arXiv:1804.08771 (BLEU, tokenised as there); Popović 2015, W15-3049 (chrF2, 6 characters)."""
    try:
        import sacrebleu
    except ModuleNotFoundError:
        raise ValueError(f"figures: BLEU and chrF are computed by sacrebleu, which is not installed: {NEEDS}") from None
    bleu = sacrebleu.corpus_bleu(list(written), [list(wanted)], tokenize=bleu_tokenizer(wanted))
    return {"bleu": bleu.score, "chrf": sacrebleu.corpus_chrf(list(written), [list(wanted)]).score}


def bleu_tokenizer(texts: Sequence[str]) -> str:
    """sacrebleu's name of it: `zh` where most letters are Chinese, `char` for Japanese, else its default."""
    letters = [character for text in texts for character in text if character.isalpha()]
    unspaced = [character for character in letters if re.match(f"[{CHARACTER}]", character)]
    if 2 * len(unspaced) <= len(letters):
        return "13a"
    return "char" if 10 * sum(map(bool, map(KANA.match, unspaced))) > len(unspaced) else "zh"


def rouge(written: str, wanted: str) -> Rouge:
    """ROUGE-1, ROUGE-2 and ROUGE-L of one text: words in small letters without punctuation, Chinese by characters, no
    stemmer. 0 where either has no words, or for ROUGE-2 no two.

    Source: Lin 2004, "ROUGE: a package for automatic evaluation of summaries", W04-1013, sections 2 and 3.1.
    """
    one, other = (WORD.findall(text.lower()) for text in (written, wanted))
    rouge1, rouge2 = (_overlap(_ngrams(one, n), _ngrams(other, n)) for n in (1, 2))
    return Rouge(rouge1, rouge2, _f(longest_common(one, other), len(one), len(other)))


def _overlap(one: Counter, other: Counter) -> float:
    return _f((one & other).total(), one.total(), other.total())


def _ngrams(words: Sequence[str], n: int) -> Counter[tuple[str, ...]]:
    return Counter(zip(*(words[start:] for start in range(n)), strict=False))


def _f(common: int, of_one: int, of_other: int) -> float:
    """Harmonic mean of precision and recall."""
    return 2 * common / (of_one + of_other) if common else 0.0


def longest_common(one: Sequence[str], other: Sequence[str]) -> int:
    """Words of the longest common subsequence, a row of the table at a time as the bits of one number.

    Source: Hyyrö 2004, "Bit-parallel LCS-length computation revisited", section 4.
    """
    places: dict[str, int] = {}
    for place, word in enumerate(one):
        places[word] = places.get(word, 0) | 1 << place
    all_ones = (1 << len(one)) - 1
    row = all_ones
    for word in other:
        matched = row & places.get(word, 0)
        row = ((row + matched) | (row - matched)) & all_ones
    return len(one) - row.bit_count()


@functools.cache
def figures_of(form: str | None) -> tuple[str, ...]:
    """The figures that fit examples of a form with one right answer; () = of others none does."""
    return {
        "source_target": ("bleu", "chrf", "rouge1", "rouge2", "rougeL"),
        "question_answer": ("exact", "f1", "rougeL"),
    }.get(form or "", ())
