"""JSON for every reader: null for NaN and infinities, which it has no numbers for, and NumPy's numbers as Python's."""

import json
import math
from typing import Any

import numpy as np


def dumps(value: Any, **options: Any) -> str:
    """As json.dumps, and with its options."""
    return json.dumps(_plain(value), allow_nan=False, **options)


def _plain(value: Any) -> Any:
    match value:
        case dict():
            return {name: _plain(one) for name, one in value.items()}
        case list() | tuple():
            return [_plain(one) for one in value]
        case np.generic() | np.ndarray():
            return _plain(value.tolist())
        case float() if not math.isfinite(value):
            return None
        case _:
            return value
