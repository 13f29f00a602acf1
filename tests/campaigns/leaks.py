"""What a cheap classifier makes of continuity's pairs: run by hand, `python -m tests.campaigns.leaks [RECIPE [pairs]]`.

Of the recipe `evening`, about 5,000 pairs of each source, if nothing else is said. It sees only A, only B, or
lengths and source; on three balanced classes it should stay at 38 % or less. Above 33 % is what the words of a block
tell of its place in the document. Accuracy is on documents that it was not fitted to.
"""

import importlib
import sys
from typing import NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table
from scipy import optimize, sparse, special

from data.prepare import prepare
from data.rows.rowplan import Pieces, RowPlan
from data.rows.rows import open_corpus, read_text
from data.tasks.task import Corpus
from data.token_store import scramble
from train.recipe import Recipe

ROWS = 256  # built at once
LOTS = 5  # of documents: one is held out, one chooses the penalty, the others fit the weights
PENALTIES = (30.0, 10.0, 3.0)  # on half the squared weights, beside nats summed over pairs


class Blocks(NamedTuple):
    """Pairs: the tokens of each A and B, the class, the number of the source, and a lot that a document has."""

    a: list[np.ndarray]
    b: list[np.ndarray]
    label: np.ndarray
    source: np.ndarray
    lot: np.ndarray


def pairs_of(recipe: Recipe, corpus: Corpus, source: int, most: int) -> Blocks:
    """About so many pairs of one source, from at most 8 epochs."""
    task, T = recipe.objectives.continuity, recipe.model.T
    plan = RowPlan(corpus.stores[source], T, (0, source))
    blocks, labels, lots = [], [], []
    for first in range(0, 8 * plan.rows_per_epoch, ROWS):
        pieces = plan.pieces(first + np.arange(ROWS))
        lot_P = scramble(pieces.document_P, 0) % np.uint64(LOTS)
        for lot in range(LOTS):
            of_lot = Pieces(*(array[lot_P == lot] for array in pieces))
            batch = task.build(read_text(corpus, [(source, of_lot)], T, np.zeros(ROWS), 0))
            tokens = batch.tokens_BT[batch.segment_BT > 0]
            frame = np.flatnonzero((tokens == corpus.tokenizer.bos) | (tokens == corpus.tokenizer.eos))
            blocks += np.split(tokens, frame)[1:]
            labels.append(batch.label_BQ[batch.label_weight_BQ > 0])
            lots.append(np.full(len(labels[-1]), lot))
        if sum(map(len, labels)) >= most:
            break
    label = np.concatenate(labels)
    a, b = ([block[1:] for block in blocks[first::3]] for first in (0, 1))
    return Blocks(a, b, label, np.full(len(label), source), np.concatenate(lots))


def words(blocks: list[np.ndarray], V: int) -> sparse.csr_array:
    """Which tokens a block holds, its first and its last one: 0 or 1, [blocks, 3 V]."""
    rows = np.repeat(np.arange(len(blocks)), [len(block) for block in blocks])
    ends = np.arange(len(blocks))
    parts = [
        (rows, np.concatenate(blocks)),
        (ends, V + np.array([block[0] for block in blocks])),
        (ends, 2 * V + np.array([block[-1] for block in blocks])),
    ]
    at, column = (np.concatenate(part) for part in zip(*parts, strict=True))
    found = sparse.csr_array((np.ones(len(at)), (at, column)), (len(blocks), 3 * V))
    found.data[:] = 1.0  # however often
    return found


def lengths(pairs: Blocks) -> sparse.csr_array:
    """Lengths of both, their sum and difference, each alone and with the source, in steps of 4 tokens."""
    length_A, length_B = (np.array([len(block) for block in blocks]) for blocks in (pairs.a, pairs.b))
    columns, width = [], 128
    for values in (length_A, length_B, length_A + length_B, length_A - length_B + 2 * width):
        columns += [np.minimum(values // 4, width - 1), width * (1 + pairs.source) + np.minimum(values // 4, width - 1)]
    block = width * (2 + pairs.source.max())
    at = np.tile(np.arange(len(length_A)), len(columns))
    column = np.concatenate([k * block + values for k, values in enumerate(columns)])
    return sparse.csr_array((np.ones(len(at)), (at, column)), (len(length_A), len(columns) * block))


def accuracy(features: sparse.csr_array, pairs: Blocks) -> float:
    """Held-out accuracy of logistic regression, with the penalty that does best on documents of neither part."""
    parts = [np.flatnonzero(part) for part in (pairs.lot > 1, pairs.lot == 1, pairs.lot == 0)]
    (x, y), chosen, held_out = ((features[part], np.eye(3)[pairs.label[part]]) for part in parts)
    weights, found = np.zeros((x.shape[1], 3)), []
    for penalty in PENALTIES:
        settings = {"jac": True, "method": "L-BFGS-B", "options": {"maxiter": 100}}
        weights = optimize.minimize(loss, weights.ravel(), (x, y, penalty), **settings).x.reshape(-1, 3)
        right = [(of @ weights).argmax(1) == label.argmax(1) for of, label in (chosen, held_out)]
        found.append((right[0].mean(), right[1].mean()))
    return float(max(found)[1])


def loss(flat: np.ndarray, x: sparse.csr_array, y: np.ndarray, penalty: float) -> tuple[float, np.ndarray]:
    """Nats over all pairs and the penalty, and their gradient."""
    weights = flat.reshape(-1, 3)
    logits = x @ weights
    nats = (special.logsumexp(logits, axis=1) - (logits * y).sum(1)).sum()
    gradient = x.T @ (special.softmax(logits, axis=1) - y) + penalty * weights
    return nats + penalty / 2 * (weights**2).sum(), gradient.ravel()


def main() -> int:
    name, most = sys.argv[1] if len(sys.argv) > 1 else "evening", int(sys.argv[2]) if len(sys.argv) > 2 else 5000
    recipe = importlib.import_module(f"train.recipes.{name}").recipe()
    corpus = open_corpus(prepare(recipe.data), "train")
    V = corpus.tokenizer.size
    read = recipe.objectives.continuity.sources or corpus.sources
    of_sources = [pairs_of(recipe, corpus, corpus.sources.index(source), most) for source in read]
    together = Blocks(
        [block for pairs in of_sources for block in pairs.a],
        [block for pairs in of_sources for block in pairs.b],
        *(np.concatenate(arrays) for arrays in zip(*(pairs[2:] for pairs in of_sources), strict=True)),
    )
    table = Table("source", "pairs", "held out", "only A, %", "only B, %", "lengths, %")
    for name, pairs in zip((*read, "all"), (*of_sources, together), strict=True):
        found = [accuracy(features, pairs) for features in (words(pairs.a, V), words(pairs.b, V), lengths(pairs))]
        counts = (f"{count:,}" for count in (len(pairs.label), (pairs.lot == 0).sum()))
        table.add_row(name, *counts, *(f"{100 * share:.1f}" for share in found))
    Console(width=100).print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
