"""Many prompts continued, each cut so that there is room for an answer."""

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from gptjax.decoding.padding import padded_length, shortest_length
from gptjax.inference.scoring import Progress

if TYPE_CHECKING:
    from gptjax.inference.language_model import LanguageModel


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
    for slots, numbers in groups([len(ids) for ids in prompts], tokens, T):
        batch = [prompts[number] for number in numbers]
        so_far = None if progress is None else lambda more, _, before=done: progress(before + more, len(said))
        samples = model.generate(batch, tokens=tokens, slots=slots, progress=so_far, **{"temperature": 0, **settings})
        for number, [sample] in zip(numbers, samples, strict=True):
            said[number] = sample.text
        done += len(numbers)
    return said


def groups(lengths: Sequence[int], tokens: int, T: int) -> list[tuple[int, list[int]]]:
    """(room of a row, numbers of the prompts that are written in such rows), of at most LENGTHS sizes.

    The longest go first, so that memory that does not suffice is noticed at once.
    """
    rooms = [padded_length(length + tokens, T) for length in lengths]
    shortest = shortest_length(set(rooms))
    found: dict[int, list[int]] = {}
    for number in sorted(range(len(rooms)), key=lambda number: -lengths[number]):
        found.setdefault(max(shortest, rooms[number]), []).append(number)
    return list(found.items())


def _read(length: int, tokens: int, T: int) -> int:
    """How many tokens at the end of a prompt are read."""
    return T - min(tokens, max(T - length, T // 2))
