"""What callers give, checked before anything slow: numbers, texts, token ids, dtypes. Does not import JAX.

All raise ValueError, in one line that says what was found.
"""

import numbers
from collections.abc import Iterable
from typing import Any

import ml_dtypes  # noqa: F401  names bfloat16 for NumPy
import numpy as np

from gptjax.spelling import did_you_mean

DTYPES = ("float32", "bfloat16", "float16", "int8")  # of weights; with the last, products are of another


def whole(name: str, value: Any) -> int:
    """A whole number, of Python, NumPy or JAX; True is none."""
    number = _number(value)
    if isinstance(number, numbers.Integral) and not isinstance(number, bool):
        return int(number)
    raise ValueError(f"{name}={value!r}: must be a whole number, not {kind(value)}")


def real(name: str, value: Any) -> float | int:
    """A number, of Python, NumPy or JAX."""
    number = _number(value)
    if isinstance(number, numbers.Real) and not isinstance(number, bool):
        return number if isinstance(number, int) else float(number)
    raise ValueError(f"{name}={value!r}: must be a number, not {kind(value)}")


def _number(value: Any) -> Any:
    """Python's number of an array without axes; any other value as it is."""
    return value.item() if getattr(value, "shape", None) == () else value


def text(name: str, value: Any) -> str:
    """Text that can be written down as UTF-8."""
    if not isinstance(value, str):
        hint = "; decode it first, as with .decode('utf-8')" if isinstance(value, bytes) else ""
        raise ValueError(f"{name}: must be text (str), not {kind(value)}{hint}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{name}: character {error.start} is {value[error.start]!r}, half of a surrogate pair and no text; "
            "was it decoded as UTF-8?"
        ) from None
    return value


def token_ids(name: str, value: Any) -> list[int]:
    """Whole numbers, as a list or a one-dimensional array of them."""
    if isinstance(value, str | bytes) or not isinstance(value, Iterable):
        raise ValueError(f"{name}: must be text, or a list of token ids, not {kind(value)}")
    shape = getattr(value, "shape", (0,))
    if len(shape) != 1:
        raise ValueError(f"{name}: must be one row of token ids; this array has shape {shape}")
    found = value.tolist() if hasattr(value, "tolist") else value
    what = f"{name}: token id"
    return [whole(what, id) for id in found]


def dtype_name(value: Any) -> str:
    """One of DTYPES, by its name or as NumPy and JAX have it."""
    try:
        name = None if value is None else np.dtype(value).name
    except (TypeError, ValueError, SyntaxError):  # as NumPy finds texts that are no name
        name = None
    if name not in DTYPES:
        raise ValueError(f"dtype={value!r}{did_you_mean(name or str(value), DTYPES)}")
    return name


def kind(value: Any) -> str:
    """What an error calls a value of the wrong kind."""
    return "None" if value is None else f"a {type(value).__name__}"


def listed[T](given: Iterable[T], name: str) -> list[T]:
    """What several were asked for, as a list; one text is refused, whose characters nobody means."""
    if isinstance(given, bytes) or not isinstance(given, Iterable):
        raise ValueError(f"{name}: must be a list of them, not {kind(given)}")
    if isinstance(given, str):
        raise ValueError(f"{name}={given[:40]!r}: is one text; give a list of them, such as [{given[:40]!r}]")
    return list(given)


def listed_texts(given: Iterable[str], name: str) -> list[str]:
    """The same of texts that can be encoded."""
    return [text(f"{name}[{number}]", one) for number, one in enumerate(listed(given, name))]
