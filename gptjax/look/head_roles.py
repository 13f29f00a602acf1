"""What an attention head does, by a measured score: how much of its attention goes where a role says.

Measured on a text of random tokens that is said twice, so that nothing but the order of tokens can be known: there a
token of the second half has one earlier place of its own, and one token that followed it there.
Axes: C layers  n heads  T query position  S key position.

Source: Olsson et al. 2022, arXiv:2209.11895, section "Induction heads" (random tokens repeated, prefix matching).
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from gptjax.text.tokenizer import Tokenizer

ROLES = {  # in words, of token t of the second half
    "previous token": "the token right before",
    "next token": "the token right behind; from both sides only",
    "first token": "the first token of the text",
    "same word": "the same token at another place",
    "induction": "the token that followed the same token at another place",
}
ENOUGH = 0.3  # of its attention, from which on a head has a role
HALF, FEWEST = 32, 3  # random tokens; with fewer, two roles would mean one token


@dataclasses.dataclass(frozen=True)
class HeadRole:
    """What one head does."""

    layer: int
    head: int
    name: str | None  # None = none of the roles has ENOUGH of its attention
    scores: dict[str, float]  # of every role, mean share of attention from 0 to 1


def probe(tokenizer: Tokenizer, T: int, vocabulary: int, seed: int = 0) -> list[int]:
    """BOS, random tokens, and the same tokens again, within a context of T; no two of one half are alike."""
    plain = np.array([id for id in range(min(tokenizer.size, vocabulary)) if id not in tokenizer.special_ids])
    count = min(HALF, (T - 1) // 2, len(plain))
    half = np.random.default_rng(seed).choice(plain, count, replace=False).tolist()
    return [tokenizer.bos, *half, *half]


def head_roles(
    prob_CnTS: np.ndarray, ids: Sequence[int], layers: Sequence[int], heads: Sequence[int], both: bool
) -> list[HeadRole]:
    """The role of every head, from its attention over the ids of a `probe`."""
    half = (len(ids) - 1) // 2
    if half < FEWEST:
        return [HeadRole(layer, head, None, {}) for layer in layers for head in heads]
    second = np.arange(half + 1, 2 * half + 1)
    twin = second - half  # the same token's other place
    columns = {
        "previous token": second - 1,
        "first token": np.zeros_like(second),
        "same word": twin,
        "induction": twin + 1,
    }
    if both:
        columns["next token"] = second[:-1] + 1
    mean = {
        name: prob_CnTS[:, :, second[: len(column)], column].mean(axis=-1, dtype=np.float64)
        for name, column in columns.items()
    }
    found = []
    for place, layer in enumerate(layers):
        for number, head in enumerate(heads):
            scores = {name: float(mean[name][place, number]) for name in ROLES if name in mean}
            best = max(scores, key=lambda name: scores[name])
            found.append(HeadRole(layer, head, best if scores[best] >= ENOUGH else None, scores))
    return found
