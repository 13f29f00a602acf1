"""To how many tokens rows are padded, so that few lengths are compiled. Does not import JAX."""

SHORTEST = 16  # tokens that a row is padded to at least
LENGTHS = 8  # padded lengths, and so compilations, that one call needs at most


def padded_length(length: int, context: int) -> int:
    """The power of two that so many tokens are padded to, so that few lengths are compiled; within the context."""
    return min(context, max(SHORTEST, 1 << (length - 1).bit_length()))


def shortest_length(lengths: set[int]) -> int:
    """What the shortest rows of a call are padded to, given the padded lengths of all: LENGTHS of them stay apart."""
    return min(sorted(lengths)[-LENGTHS:], default=0)
