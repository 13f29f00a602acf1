"""JSON for every reader: written without NaN, and with NumPy's numbers as Python's; read without what breaks later."""

import json
import math
from typing import Any

import numpy as np


def dumps(value: Any, **options: Any) -> str:
    """As json.dumps, and with its options; null for NaN and infinities, which JSON has no numbers for."""
    return json.dumps(_plain(value), allow_nan=False, **options)


def loads(text: str, **options: Any) -> Any:
    """As json.loads, and with its options.

    Raises ValueError, to be named by the caller, also for half of a surrogate pair, which no file can hold again, and
    for what is nested too deeply or has too many digits for Python.
    """
    try:
        found = json.loads(text, **options)
        if "\\ud" in text.lower():
            json.dumps(found, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise ValueError("half of a surrogate pair, \\ud...; write both or neither") from None
    except RecursionError:
        raise ValueError("not JSON that can be read: it is nested too deeply") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error.msg} at {_place(error)}") from None
    except ValueError as error:
        why = "a whole number has too many digits; write it as text" if "digits" in str(error) else error
        raise ValueError(f"not JSON that can be read: {why}") from None
    return found


def _place(error: json.JSONDecodeError) -> str:
    one_line = "\n" not in error.doc.strip()
    return f"character {error.pos + 1}" if one_line else f"line {error.lineno}, character {error.colno}"


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
