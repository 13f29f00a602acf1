"""What people tell of a text: the name of a class, labels, a number; read alike in training and in evaluation."""

import math
import numbers
from typing import Any


def label_name(value: Any) -> str:
    """A class or label by its name: words with one space between, true and false in lower case, a number as written.

    Raises ValueError, "is empty" or what it is, for what names nothing.
    """
    if isinstance(value, bool):
        return str(value).lower()
    if value is None or isinstance(value, str | numbers.Real):
        if value is None or not (name := " ".join(str(value).split())):
            raise ValueError("is empty")
        return name
    raise ValueError(f"is a {type(value).__name__}")


def split_labels(value: Any) -> list[Any]:
    """The labels of a text, none or more: a list, or text that "|" or, without one, "," parts. Raises ValueError."""
    if isinstance(value, str):
        return [one for part in value.split("|" if "|" in value else ",") if (one := part.strip())]
    if isinstance(value, list | tuple):
        return list(value)
    raise ValueError(f"is {_what(value)}; labels are a list, or text such as 'red|round', and of none an empty one")


def number_in(value: Any) -> float | None:
    """A finite number, or one that is written as text; None of all else."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real | str):
        return None
    try:
        found = float(value)
    except (ValueError, OverflowError):
        return None
    return found if math.isfinite(found) else None


def _what(value: Any) -> str:
    return "null" if value is None else f"a {type(value).__name__}"
