"""How often each source is read: rates, in multiples of 1/1024, of which `rowplan` makes the order of rows."""

from collections.abc import Mapping

RATE_UNIT = 1024  # rates are laid out as multiples of 1/1024


def parse(mixture: str) -> tuple[str, float]:
    """(how, its number; 0 where it takes none) of a mixture as a person writes it. Raises ValueError if it is none."""
    match mixture.split():
        case ["rates" | "proportional" as how]:
            return how, 0.0
        case ["temperature" | "unimax" as how, number] if _is_positive(number):
            return how, float(number)
    raise ValueError(
        f"data.mixture={mixture!r}: write 'rates' (as written after each source), 'proportional' (to its tokens), "
        "'temperature 3' (flatter with a higher number) or 'unimax 4' (equal, but at most 4 epochs of a source), "
        "with a number above 0"
    )


def mixture_rates(
    mixture: str, shares: Mapping[str, float], sizes: Mapping[str, int], horizon: int | None
) -> dict[str, int]:
    """Source name -> rows out of every 1024.

    `shares` are as written; `sizes` is the training text of each source and `horizon` what a run reads of all of them,
    in the same unit (tokens, or bytes); None will do where no source has an epoch cap.

    Raises ValueError where a source would be given less than half a row in 1024.
    """
    how, number = parse(mixture)
    if how == "rates":
        return lay_out(shares)
    if how == "proportional":
        wanted = dict(sizes)
    elif how == "temperature":
        wanted = {name: (size / max(sizes.values())) ** (1 / number) for name, size in sizes.items()}
    else:
        assert horizon is not None  # who lays out rows of such a mixture knows how long the run is
        wanted = unimax(sizes, horizon, number)
    total = sum(wanted.values())
    for name, amount in wanted.items():
        if 2 * amount * RATE_UNIT < total:
            raise ValueError(
                f"data.mixture={mixture!r} gives {name!r} {amount / total:.3%} of the rows, and a rate is at least "
                f"1/{RATE_UNIT}; leave the source out, or choose a flatter mixture, such as 'temperature 3'"
            )
    return lay_out(wanted)


def unimax(sizes: Mapping[str, int], budget: int, epochs: float) -> dict[str, float]:
    """Source name -> how much of the budget it gets: equal parts, but of no source more than so many epochs.

    A budget beyond so many epochs of everything is not used up; the parts then say proportions alone.

    Source: Chung et al. 2023, "UniMax", arXiv:2304.09151, algorithm 1.
    """
    given, remaining = {}, float(budget)
    for place, name in enumerate(sorted(sizes, key=lambda name: sizes[name])):
        given[name] = min(remaining / (len(sizes) - place), sizes[name] * epochs)
        remaining -= given[name]
    return {name: given[name] for name in sizes}


def lay_out(shares: Mapping[str, float]) -> dict[str, int]:
    """Shares of any sum -> rows out of every 1024: they sum to 1024, and each source has at least one.

    Raises ValueError where that cannot be.
    """
    total = sum(shares.values())
    exact = {name: share / total * RATE_UNIT for name, share in shares.items()}
    rates = {name: max(1, int(rate)) for name, rate in exact.items()}
    by_remainder = sorted(exact, key=lambda name: (rates[name] - exact[name], name))
    for name in by_remainder[: RATE_UNIT - sum(rates.values())]:
        rates[name] += 1
    if sum(rates.values()) != RATE_UNIT:
        raise ValueError(f"data.sources: a rate below 1/{RATE_UNIT} of the whole cannot be laid out: {dict(shares)}")
    return rates


def _is_positive(text: str) -> bool:
    try:
        return 0 < float(text) < float("inf")
    except ValueError:
        return False
