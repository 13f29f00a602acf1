"""Attention maps as few bytes: the shares that can be seen, for a page of hundreds of maps. Does not import JAX.

Axes: C layers  n heads  T query position  S key position.
"""

import base64
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np

MOST_SHARES, MOST_LETTERS = 2_500_000, 4_400_000  # of one page, which is then below 5 MB
LEAST = (
    0.001,
    0.002,
    0.005,
    0.01,
    0.02,
    0.05,
    0.1,
    0.2,
    0.5,
)  # smallest share that is kept: the first that fits
STEPS = 255  # a share is kept as round(255 sqrt(share)), so within 0.4 % of all


def packed(maps: Sequence[np.ndarray]) -> dict[str, Any]:
    """The maps [C,n,T,S] of one page, for JSON.

    `bytes`: zlib's, as base64, of how many shares each row keeps (low bytes, then high ones), then their keys
    (likewise), then the shares; row by row, map by map. `shares`: how many. `least`: what is smaller was dropped.
    """
    shares, least, letters = 0, 0.0, ""
    for least in LEAST:
        shares = sum(int(np.count_nonzero(prob_CnTS >= least)) for prob_CnTS in maps)
        if shares > MOST_SHARES and least != LEAST[-1]:
            continue
        letters = base64.b64encode(zlib.compress(_content(maps, least))).decode()
        if len(letters) <= MOST_LETTERS:
            break
    return {"bytes": letters, "shares": shares, "least": least}


def _content(maps: Sequence[np.ndarray], least: float) -> bytes:
    counts, keys, kept = [], [], []
    for prob_CnTS in maps:
        seen_CnTS = prob_CnTS >= least
        counts.append(seen_CnTS.sum(axis=-1, dtype=np.uint16).reshape(-1))
        keys.append(np.nonzero(seen_CnTS)[-1].astype(np.uint16))
        kept.append(np.rint(STEPS * np.sqrt(prob_CnTS[seen_CnTS])).astype(np.uint8))
    count, key = np.concatenate(counts), np.concatenate(keys)
    planes = [part.astype(np.uint8) for pair in (count, key) for part in (pair & 255, pair >> 8)]
    return b"".join(plane.tobytes() for plane in (*planes, *kept))
