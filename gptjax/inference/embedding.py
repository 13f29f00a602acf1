"""What a model makes of whole texts: a vector each, or one for each token, for searching, comparing and classifying.

Axes: I texts  B batch  T position  D residual  C layers that are asked for.
"""

import functools
import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Unpack

import jax
import jax.numpy as jnp
import numpy as np

from gptjax import arguments
from gptjax.decoding.padding import padded_length
from gptjax.inference.feature_input import FINAL, Layer, Pooling, check_reading, feature_ids
from gptjax.inference.scoring import NOT_NUMBERS, ScoreOptions, check_ids, read_at_once, text_batches
from gptjax.look.hook import layer_states
from gptjax.nn.model import Transformer
from gptjax.nn.pooling import pooled

if TYPE_CHECKING:
    from gptjax.inference.language_model import LanguageModel

BATCHES, ENCODED = 8, 256  # of a stream: batches whose vectors exist at once; texts that become ids at once


def features(
    model: "LanguageModel", network: Transformer, params: Any, texts: Iterable[str], *, layer: Layer = FINAL,
    pool: Pooling | None = "mean", bidirectional: bool = False, length: int | None = None,
    batch_tokens: int | None = None,
) -> Iterator[np.ndarray]:  # fmt: skip
    """The vector of each text, f32 [D], in order; with pool=None those of its tokens, [T,D].

    `layer`: the states behind this one, from 0 on; "embedding" = what the first reads, "final" = what the last norm
    gives. `pool`: their "mean", the "last", or "weighted", the mean in which the n-th counts n times.
    `bidirectional`: each token sees the whole text, where it otherwise sees what is before it; for models that learnt
    to. `length`: only so many tokens of each text are read; None = all. BOS, which goes before a text where texts of
    this model begin with it, is one of them.

    Texts may come from a stream without end: they are read as their vectors are asked for, BATCHES batches at a time. A
    vector depends on its text alone, to the last bit: not on the others, their order or their number. Another
    `batch_tokens` (as in gptjax.inference.scoring.score), and a mesh, move it by about 1e-5 of its size.

    Raises ValueError at once for a layer, pool or length that is not there; and, when it is its turn, for a text that
    is empty, or beyond the context where no length is given, and where states are no numbers.
    """
    check_reading(model.config, layer, pool, length)
    layer = layer if isinstance(layer, str) else int(layer)  # NumPy's numbers too
    together = BATCHES * read_at_once(batch_tokens)
    if isinstance(texts, str | bytes) or not isinstance(texts, Iterable):
        arguments.listed(texts, "texts")  # says what is wrong with it

    def vectors(ids: Sequence[Sequence[int]], first: int) -> Iterator[np.ndarray]:
        with model.on_mesh():
            found = layer_vectors(
                network, params, ids, [layer], pool=pool, bidirectional=bidirectional, first=first,
                batch_tokens=batch_tokens,
            )  # fmt: skip
        return (of_text[0] for of_text in found)

    def stream() -> Iterator[np.ndarray]:
        waiting: list[list[int]] = []
        first, tokens = 0, 0
        for some in itertools.batched(texts, ENCODED):
            names = [f"text {first + len(waiting) + number}" for number in range(len(some))]
            parts = model.config, model.tokenizer, model.generation_config
            for ids in feature_ids(*parts, some, names, length):
                waiting.append(ids)
                tokens += len(ids)
                if tokens >= together:
                    yield from vectors(waiting, first)
                    first, tokens, waiting = first + len(waiting), 0, []
        yield from vectors(waiting, first)

    return stream()


def layer_vectors(
    model: Transformer, params: Any, texts: Sequence[Sequence[int]], layers: Sequence[Layer], *, pool: Pooling | None,
    bidirectional: bool, first: int = 0, **options: Unpack[ScoreOptions],
) -> list[np.ndarray]:  # fmt: skip
    """Of each text of ids its vectors of some layers, all of one pass: f32 [C,D], with pool=None [C,T,D].

    `first`: the number of the first text, for errors. Raises ValueError for a text that is empty, beyond the context or
    the vocabulary, and where states are no numbers.
    """
    check_ids("text", texts, model.config)
    numbers_of: dict[int, list[int]] = {}  # by padded length, so that no text is padded more because of another
    for number, ids in enumerate(texts):
        numbers_of.setdefault(padded_length(len(ids), model.config.T), []).append(number)
    found: list[Any] = [None] * len(texts)
    progress, batch_tokens = options.get("progress"), options.get("batch_tokens")
    batches = [
        ([numbers[place] for place in places], read)
        for _, numbers in sorted(numbers_of.items(), reverse=True)  # the longest first: memory that does not suffice
        for places, read in text_batches([texts[number] for number in numbers], model.config, batch_tokens=batch_tokens)
    ]
    for done, (numbers, read) in enumerate(batches, start=1):
        vectors = jax.device_get(
            _vectors(model, params, *read, layers=tuple(layers), pool=pool, bidirectional=bidirectional)
        )
        for row, number in enumerate(numbers):
            of_text = [of_layer[row] for of_layer in vectors]
            found[number] = np.stack(of_text if pool else [of_layer[: len(texts[number])] for of_layer in of_text])
        if progress is not None:
            progress(done, len(batches))
    for number, of_text in enumerate(found, start=first):
        if not np.isfinite(of_text).all():
            raise ValueError(f"the model's states of text {number} {NOT_NUMBERS}")
    return found


@functools.partial(jax.jit, static_argnames=("model", "layers", "pool", "bidirectional"))
def _vectors(
    model: Transformer, params: Any, tokens_BT: Any, length_B: Any, *, layers: Any, pool: Any, bidirectional: Any
) -> list[jax.Array]:
    """Of each layer [B,D], or without a pool [B,T,D]."""
    states = layer_states(model, params, tokens_BT, length_B, layers, bidirectional)
    if pool is None:
        return list(states)
    inside_BT = jnp.arange(tokens_BT.shape[1])[None, :] < length_B[:, None]
    end_B1 = jnp.maximum(length_B - 1, 0)[:, None]
    return [pooled(state_BTD, inside_BT.astype(jnp.int32), end_B1, pool)[:, 0] for state_BTD in states]


def mean_states(
    model: Transformer, params: Any, texts: Sequence[Sequence[int]], **options: Unpack[ScoreOptions]
) -> np.ndarray:
    """The mean of the final states of each text of ids, read from the left: f32 [I,D], not scaled to length 1.

    `options` and what the numbers depend on: see gptjax.inference.scoring.score. Raises ValueError for a text that is
    empty, beyond the context or the vocabulary, and where states are no numbers.
    """
    found = layer_vectors(model, params, texts, [FINAL], pool="mean", bidirectional=False, **options)
    return np.array([of_text[0] for of_text in found], np.float32).reshape(len(texts), model.config.D)
