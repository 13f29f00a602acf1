"""Labelled texts in parts, for cross-validation: as many of every class in each. Does not import JAX.

Axes: I texts.
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

FOLDS = 5


def probed_classes(labels: Sequence[str]) -> list[str]:
    """The classes that have a text for each part, in their order; those that are rarer are left out of a probe.

    Raises ValueError where fewer than two are left.
    """
    counts = Counter(labels)
    found = sorted(label for label, count in counts.items() if count >= FOLDS)
    if len(found) < 2:
        commonest = ", ".join(f"{label!r} ({count})" for label, count in counts.most_common(5))
        raise ValueError(
            f"a probe wants two classes or more of {FOLDS} texts each; of {len(labels)} texts the commonest labels are "
            f"{commonest}"
        )
    return found


def folds(label_I: Int[np.ndarray, "I"], seed: int) -> Int[np.ndarray, "I"]:
    """The part of each text: of every class as many in each, or one more."""
    draw, fold_I, dealt = np.random.default_rng(seed), np.zeros(len(label_I), np.int64), 0
    for label in np.unique(label_I):
        of_class = draw.permutation(np.flatnonzero(label_I == label))
        fold_I[of_class] = (dealt + np.arange(len(of_class))) % FOLDS
        dealt += len(of_class)
    return fold_I
