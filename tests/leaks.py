"""What a cheap classifier makes of continuity's pairs: run by hand, `python -m tests.leaks [pairs of each source]`.

It sees only A, only B, or lengths and source; on three balanced classes it should stay at 38 % or less. Above 33 % is
what the words of a block tell of its place in the document. Accuracy is on rows that it was not fitted to.
"""

import sys

import numpy as np
from rich.console import Console
from rich.table import Table
from scipy import optimize, sparse, special

from data.prepare import prepare
from data.rowplan import RowPlan
from data.rows import open_corpus, read_text
from data.tasks.continuity import Continuity
from data.tasks.task import Corpus
from train.recipes.laptop import recipe

T, ROWS = 256, 256  # of a row; rows built at once
FITTED, CHOSEN = 0.6, 0.8  # pairs up to these shares fit the weights and choose the penalty; the rest are held out
PENALTIES = (3.0, 10.0, 30.0)  # on half the squared weights, beside nats summed over pairs


def pairs_of(corpus: Corpus, source: int, most: int) -> tuple[list[np.ndarray], list[np.ndarray], np.ndarray]:
    """(tokens of each A, of each B, classes) of at most so many pairs."""
    task, plan = Continuity(rows=1.0), RowPlan(corpus.stores[source], T, (0, source))
    blocks, classes = [], []
    for first in range(0, 4 * plan.rows_per_epoch, ROWS):
        text = read_text(corpus, [(source, plan.pieces(first + np.arange(ROWS)))], T, np.zeros(ROWS), 0)
        batch = task.build(text)
        tokens = batch.tokens_BT[batch.segment_BT > 0]
        marks = np.flatnonzero((tokens == corpus.tokenizer.bos) | (tokens == corpus.tokenizer.eos))
        blocks += np.split(tokens, marks)[1:]
        classes.append(batch.label_BC[batch.label_weight_BC > 0])
        if sum(map(len, classes)) >= most:
            break
    return [block[1:] for block in blocks[0::3]], [block[1:] for block in blocks[1::3]], np.concatenate(classes)


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


def lengths(a: list[np.ndarray], b: list[np.ndarray], source: np.ndarray) -> sparse.csr_array:
    """Lengths of both, their sum and difference, each alone and with the source, in steps of 4 tokens."""
    length_A, length_B = (np.array([len(block) for block in blocks]) for blocks in (a, b))
    columns, width = [], 128
    for values in (length_A, length_B, length_A + length_B, length_A - length_B + 2 * width):
        columns += [np.minimum(values // 4, width - 1), width * (1 + source) + np.minimum(values // 4, width - 1)]
    block = width * (2 + source.max())
    at = np.tile(np.arange(len(a)), len(columns))
    column = np.concatenate([k * block + values for k, values in enumerate(columns)])
    return sparse.csr_array((np.ones(len(at)), (at, column)), (len(a), len(columns) * block))


def accuracy(features: sparse.csr_array, classes: np.ndarray) -> float:
    """Held-out accuracy of logistic regression, with the penalty that does best on pairs of neither part."""
    fitted, chosen = int(FITTED * len(classes)), int(CHOSEN * len(classes))
    x, y = features[:fitted], np.eye(3)[classes[:fitted]]
    weights, best = np.zeros((x.shape[1], 3)), (0.0, 0.0)
    for penalty in reversed(PENALTIES):

        def loss(flat, penalty=penalty):
            w = flat.reshape(-1, 3)
            logits = x @ w
            error = special.softmax(logits, axis=1) - y
            nats = (special.logsumexp(logits, axis=1) - (logits * y).sum(1)).sum()
            return nats + penalty / 2 * (w**2).sum(), (x.T @ error + penalty * w).ravel()

        weights = optimize.minimize(
            loss, weights.ravel(), jac=True, method="L-BFGS-B", options={"maxiter": 100}
        ).x.reshape(-1, 3)
        right = (features[fitted:] @ weights).argmax(1) == classes[fitted:]
        best = max(best, (right[: chosen - fitted].mean(), right[chosen - fitted :].mean()))
    return float(best[1])


def main() -> int:
    most = int(sys.argv[1]) if len(sys.argv) > 1 else 4000
    corpus = open_corpus(prepare(recipe().data), "train")
    V = corpus.tokenizer.size
    table = Table("source", *(f"{title}" for title in ("pairs", "only A, %", "only B, %", "lengths, %")))
    everything: tuple[list, list, list, list] = ([], [], [], [])

    def show(name: str, a, b, classes, source):
        found = [accuracy(features, classes) for features in (words(a, V), words(b, V), lengths(a, b, source))]
        table.add_row(name, f"{len(classes):,}", *(f"{100 * share:.1f}" for share in found))

    for number, name in enumerate(corpus.sources):
        a, b, classes = pairs_of(corpus, number, most)
        source = np.full(len(classes), number)
        show(name, a, b, classes, np.zeros_like(source))
        for whole, part in zip(everything, (a, b, classes, source), strict=True):
            whole.extend(part)
    mixed = np.random.default_rng(0).permutation(len(everything[0]))
    a, b, classes, source = ([part[k] for k in mixed] for part in everything)
    show("all", a, b, np.array(classes), np.array(source))
    Console(width=100).print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
