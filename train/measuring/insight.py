"""What goes on inside a model while it trains: its heads, and how alike its layers are to each other and to before.

Axes: L layers  N heads  C layers asked for  n heads asked for  T query position  S key position  D residual
I tokens that are compared.
"""

import io
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from data.rows.rows import Corpus, open_corpus
from gptjax.files.atomic_file import write_whole
from gptjax.look.head_roles import head_roles, probe
from gptjax.look.hook import read
from gptjax.nn.lora import merged
from gptjax.nn.model import Transformer
from gptjax.probing.similarity import alignment, inner_products
from gptjax.runs.manifest import numbered_name
from train.assemble import Assembly, Text
from train.record.metrics import Inside

ROWS, TOKENS = 16, 128  # beginnings of held-out documents that are read, and how much of each
COMPARED = slice(3, None, 4)  # tokens of each; not the first, whose state is by far the largest and would decide alone
FOLDER = "inside"  # of a run: inner products of the states at each look, float16, for the looks to come


class Insight:
    """Looks into a model at the same tokens each time: the first of held-out documents, spread over all sources."""

    def __init__(self, parts: Assembly, text: Text):
        self._config, self._folder = parts.config, parts.recipe.run / FOLDER
        corpus, longest = open_corpus(text.prepared, "validation"), min(TOKENS, parts.config.T)
        self._rows = beginnings(corpus, longest)
        self._probe = probe(text.tokenizer, longest, parts.config.vocabulary)

    def look(self, step: int, params: Any, goes_on: Callable[[], bool]) -> Inside | None:
        """`params`: as they are trained. `goes_on` is asked before each row; None where it says no."""
        params, config = merged(params, self._config)
        network, layers, heads = Transformer(config), range(config.L), range(config.N)

        roles = head_roles(
            read(network, params, self._probe, layers, heads).prob_CnTS, self._probe, layers, heads, both=False
        )
        entropies, states = [], []
        for ids in self._rows:
            if not goes_on():
                return None
            of_row = read(network, params, ids, layers, heads)
            entropies.append(entropy(of_row.prob_CnTS[:, :, COMPARED]))
            states.append(of_row.state_CTD[:, COMPARED])
        product_LII = np.stack([inner_products(state_ID) for state_ID in np.concatenate(states, axis=1)])
        product_LII = product_LII.astype(np.float16)  # as the looks to come will find it
        record = Inside(
            step,
            entropy=_rounded(np.concatenate(entropies, axis=-1).mean(axis=-1)),
            roles={
                name: _rounded(np.array([role.scores[name] for role in roles]).reshape(config.L, config.N))
                for name in roles[0].scores
            },
            layers=_rounded(np.array([[alignment(one, other) for other in product_LII] for one in product_LII])),
            earlier=self._earlier(step, product_LII),
        )
        self._keep(step, product_LII)
        return record

    def _earlier(self, step: int, product_LII: np.ndarray) -> Mapping[str, list[float]]:
        """Step of an earlier look -> how alike each layer is to what it was then."""
        found = {numbered_name(path.stem): path for path in self._folder.glob("*.npy")}
        earlier = {}
        for then in sorted(number for number in found if number is not None and number < step):
            before_LII = np.load(found[then], allow_pickle=False)
            if before_LII.shape == product_LII.shape:
                earlier[str(then)] = _rounded(np.array([*map(alignment, before_LII, product_LII)]))
        return earlier

    def _keep(self, step: int, product_LII: np.ndarray) -> None:
        file = io.BytesIO()
        np.save(file, product_LII, allow_pickle=False)
        self._folder.mkdir(exist_ok=True)
        write_whole(self._folder / f"{step}.npy", file.getvalue())


def insight(parts: Assembly, text: Text) -> Insight | None:
    """None for a run over several devices, none of which has all of the model."""
    return Insight(parts, text) if parts.mesh.size == 1 and jax.process_count() == 1 else None


def beginnings(corpus: Corpus, longest: int) -> list[list[int]]:
    """The first tokens of ROWS documents or a few more, equally many of every source, spread over it."""
    found = []
    for store in corpus.stores:
        documents = np.unique(np.linspace(0, store.documents - 1, -(-ROWS // len(corpus.stores))).astype(int))
        for document in documents if store.documents else ():
            begin, end = store.offset_D[document], store.offset_D[document + 1]
            found.append(store.tokens[begin : min(begin + longest, end)].tolist())
    return [ids for ids in found if ids]


def entropy(prob_CnTS: np.ndarray) -> np.ndarray:
    """Nats of each token's attention, [C,n,T]: 0 = all of it at one token, log(k) = evenly over k."""
    return -np.sum(prob_CnTS * np.log(np.maximum(prob_CnTS, np.finfo(np.float32).tiny)), axis=-1, dtype=np.float64)


def _rounded(numbers: np.ndarray) -> Any:
    return np.round(numbers, 4).tolist()
