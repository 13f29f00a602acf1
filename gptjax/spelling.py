"""What a misspelt name was probably meant to be."""

import difflib
from collections.abc import Collection


def did_you_mean(word: str, known: Collection[str]) -> str:
    """`; did you mean 'x'?` for the nearest known word, else the list of them."""
    return nearest(word, known) or f"; known: {', '.join(sorted(known))}"


def nearest(word: str, known: Collection[str]) -> str:
    """`; did you mean 'x'?` for the nearest known word, else nothing: for what is too many to be listed."""
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f"; did you mean {near[0]!r}?" if near else ""
