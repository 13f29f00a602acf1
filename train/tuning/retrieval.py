"""The baseline that looks its answers up: of the training example whose question is nearest, by TF-IDF."""

from collections.abc import Sequence
from pathlib import Path

from data.description import read_prepared
from data.preparation.token_flags import ASKED, LEARNED
from data.token_store import TokenStore
from gptjax.evaluation.tf_idf import TfIdf
from gptjax.text.tokenizer import Tokenizer


class Lookup:
    """Texts by the cosine of their weighted words."""

    def __init__(self, texts: Sequence[str]):
        self._weigh = TfIdf(texts)
        self._known_IW = self._weigh(texts)

    def nearest(self, text: str) -> int:
        """The number of the nearest text; of several the first, and 0 where none shares a word."""
        return int((self._known_IW @ self._weigh([text]).T).toarray().argmax())


def training_pairs(prepared: Path, source: str, tokenizer: Tokenizer) -> list[tuple[str, str]]:
    """(what was asked, what is learnt of the answer) of a source's training examples."""
    store = TokenStore(prepared / read_prepared(prepared)["sources"][source]["folder"] / "train")
    pairs = []
    for begin, end in zip(store.offset_D[:-1].tolist(), store.offset_D[1:].tolist(), strict=True):
        ids, marks = store.tokens[begin:end], store.marks[begin:end]
        asked, learnt = (tokenizer.decode(ids[(marks & bit) > 0].tolist()).strip() for bit in (ASKED, LEARNED))
        pairs.append((asked, learnt))
    return pairs
