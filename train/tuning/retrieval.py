"""The baseline that looks its answers up: of the training example whose question is nearest, by TF-IDF."""

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

from data.description import read_prepared
from data.preparation.token_flags import ASKED, LEARNED
from data.token_store import TokenStore
from gptjax.evaluation.text_figures import WORD
from gptjax.text.tokenizer import Tokenizer


class Lookup:
    """Texts by cosine of their words' weights: count times 1 + ln((1 + n) / (1 + texts that have the word)).

    Source: Spärck Jones 1972, "A statistical interpretation of term specificity"; smoothed as scikit-learn does.
    """

    def __init__(self, texts: Sequence[str]):
        counts = [Counter(WORD.findall(text.lower())) for text in texts]
        have = Counter(word for count in counts for word in count)
        self._idf = {word: 1 + math.log((1 + len(texts)) / (1 + number)) for word, number in have.items()}
        self._postings: dict[str, list[tuple[int, float]]] = defaultdict(list)
        for number, count in enumerate(counts):
            weights = {word: times * self._idf[word] for word, times in count.items()}
            length = math.hypot(*weights.values()) or 1.0
            for word, weight in weights.items():
                self._postings[word].append((number, weight / length))

    def nearest(self, text: str) -> int:
        """The number of the nearest text; of several the first, and 0 where none shares a word."""
        found: dict[int, float] = defaultdict(float)
        for word, times in Counter(WORD.findall(text.lower())).items():
            for number, weight in self._postings.get(word, ()):
                found[number] += times * self._idf[word] * weight
        return min(found, key=lambda number: (-found[number], number), default=0)


def training_pairs(prepared: Path, source: str, tokenizer: Tokenizer) -> list[tuple[str, str]]:
    """(what was asked, what is learnt of the answer) of a source's training examples."""
    store = TokenStore(prepared / read_prepared(prepared)["sources"][source]["folder"] / "train")
    pairs = []
    for begin, end in zip(store.offset_D[:-1].tolist(), store.offset_D[1:].tolist(), strict=True):
        ids, marks = store.tokens[begin:end], store.marks[begin:end]
        asked, learnt = (tokenizer.decode(ids[(marks & bit) > 0].tolist()).strip() for bit in (ASKED, LEARNED))
        pairs.append((asked, learnt))
    return pairs
