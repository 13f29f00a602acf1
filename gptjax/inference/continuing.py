"""Many prompts continued, in batches that need few compilations."""

import warnings
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from gptjax.inference.padding import padded_length, shortest_length
from gptjax.inference.scoring import Progress

if TYPE_CHECKING:
    from gptjax.inference.language_model import LanguageModel

CACHE_SLOTS = 32_768  # tokens that the key/value caches of prompts answered together may hold
MOST_PROMPTS = 16  # answered together


def continued(
    model: "LanguageModel", starts: Sequence[Sequence[int]], *, tokens: int, progress: Progress | None = None,
    **settings: Any,
) -> list[str]:  # fmt: skip
    """What follows each prompt of ids, in order; `settings` as for `generate`, but the likeliest tokens by default.

    A prompt is cut from the left until it leaves room for `tokens`, but to no less than half of the context: an answer
    that lacks room then ends where the context is full, and a warning says how many do.
    """
    T = model.config.T
    prompts = [list(ids[-_read(len(ids), tokens, T) :]) or [model.tokenizer.bos] for ids in starts]
    short = sum(tokens > T - len(ids) + 1 for ids in prompts)  # the last token is drawn, but needs no room
    if short:
        warnings.warn(
            f"{short} of {len(prompts)} answers have no room for {tokens} tokens in the context of {T}; they end where "
            f"it is full, and of a long prompt the last {T - T // 2} tokens are read; ask for fewer to read more",
            stacklevel=2,
        )
    said, done = [""] * len(prompts), 0
    for numbers, slots, rows in batches([len(ids) for ids in prompts], tokens, T):
        batch = [prompts[number] for number in numbers]
        filled = batch + [batch[-1]] * (rows - len(batch))
        samples = model.generate(filled, tokens=tokens, slots=slots, **{"temperature": 0, **settings})
        for number, [sample] in zip(numbers, samples, strict=False):  # fewer numbers than rows
            said[number] = sample.text
        done += len(numbers)
        if progress is not None:
            progress(done, len(said))
    return said


def _read(length: int, tokens: int, T: int) -> int:
    """How many tokens at the end of a prompt are read."""
    return T - min(tokens, max(T - length, T // 2))


def batches(lengths: Sequence[int], tokens: int, T: int) -> Iterator[tuple[list[int], int, int]]:
    """(numbers of its prompts, slots of each row's cache, rows) of every batch.

    Long prompts go first, so that memory that does not suffice is noticed at once. Caches have at most LENGTHS sizes,
    each of which compiles one program that reads and one that continues; the last batch, of as many rows as the next
    power of two, another of each.
    """
    slots_of = [padded_length(length + tokens, T) for length in lengths]
    shortest = shortest_length(set(slots_of))
    left = sorted(range(len(lengths)), key=lambda number: -lengths[number])
    while left:
        slots = max(shortest, slots_of[left[0]])
        B = max(1, min(MOST_PROMPTS, CACHE_SLOTS // slots))
        numbers, left = left[:B], left[B:]
        yield numbers, slots, min(B, 1 << (len(numbers) - 1).bit_length())
