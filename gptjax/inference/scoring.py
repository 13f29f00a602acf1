"""How probable a model finds tokens: the one scoring of the API, the command line, the harness and a run's own reports.

Axes: B batch  T position  Q tokens that a row asks about  q those of one piece  D residual.
"""

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal, NamedTuple, TypedDict, get_args

import jax
import jax.numpy as jnp
import numpy as np

from gptjax import arguments
from gptjax.config import ModelConfig
from gptjax.decoding.padding import padded_length, shortest_length
from gptjax.nn.likelihood import token_scores
from gptjax.nn.model import Transformer, head
from gptjax.sharding import row_ways

View = Literal["causal", "bidirectional"]
Progress = Callable[[int, int], None]  # (done, of how many)
ASKED_AT_ONCE = 128  # tokens of a device whose scores over the whole vocabulary exist at once
NOT_NUMBERS = "are not numbers; its weights are damaged, or too large for its dtype: try float32"


class ScoreOptions(TypedDict, total=False):
    """How rows are read; see `score`."""

    batch_tokens: int | None
    progress: Progress | None


class Row(NamedTuple):
    """Ids to read, and what is asked about them: how probable is it that `targets[k]` follows the token at `at[k]`?

    The first `prefix` tokens see each other.
    """

    ids: Sequence[int]
    at: Sequence[int]
    targets: Sequence[int]
    prefix: int = 0


class Scores(NamedTuple):
    """The answers, one a target."""

    log_probs: np.ndarray  # f32: nats
    argmax: np.ndarray  # i32: the id that would be the most probable there


def check_view(view: str) -> None:
    if view not in get_args(View):
        raise ValueError(f"view={view!r}: must be {' or '.join(map(repr, get_args(View)))}")


def score(
    model: Transformer,
    params: Any,
    rows: Iterable[Row],
    *,
    view: View = "causal",
    batch_tokens: int | None = None,
    progress: Progress | None = None,
) -> list[Scores]:
    """The scores of every row, in order.

    `view`: a token sees those before it, or its whole row. `batch_tokens`: how many each device reads at once, padding
    included, but at least one row and at most ASKED_AT_ONCE; None = 512 on a CPU, 16,384 elsewhere.

    Rows are padded to powers of two, so that few lengths are compiled, and all batches of a length have equally many
    rows, the last one too. So scores depend on the row alone, to the last bit: not on the others, their order or their
    number. (Only where rows would need more than LENGTHS lengths do the shortest share one.) Other `batch_tokens`, and
    another mesh, move float32 scores by about 1e-5. Rows of equal ids are read once.

    Raises ValueError for a row that is empty or beyond the context, that has an id beyond the vocabulary or asks about
    a place that it has not; and where the model's scores are not numbers.
    """
    rows = list(rows)
    check_view(view)
    check_rows(rows, model.config)
    requests: dict[bytes, ScoreRequest] = {}
    places = []
    for row in rows:
        key = np.array([row.prefix, *row.ids], np.int32).tobytes()
        request = requests.setdefault(key, ScoreRequest(row.ids, row.prefix))
        places.append((request, slice(len(request.at), len(request.at) + len(row.at))))
        request.at.extend(row.at)
        request.targets.extend(row.targets)
    batches = batches_of(list(requests.values()), model.config.T, batch_tokens)
    for done, batch in enumerate(batches, start=1):
        _answer(model, params, batch, view)
        if not all(np.isfinite(request.log_prob_I).all() for request, _ in batch.rows):
            row = next(
                row for row, (request, place) in enumerate(places) if not np.isfinite(request.log_prob_I[place]).all()
            )
            raise ValueError(f"the model's scores of row {row} {NOT_NUMBERS}")
        if progress is not None:
            progress(done, len(batches))
    return [Scores(request.log_prob_I[place], request.argmax_I[place]) for request, place in places]


def check_ids(what: str, texts: Sequence[Sequence[int]], config: ModelConfig, fewest: int = 1) -> None:
    """Raises ValueError for what is no ids, too short, beyond the context, or has an id beyond the vocabulary."""
    if isinstance(texts, str | bytes) or not isinstance(texts, Iterable):
        raise ValueError(f"{what}s: must be a list of lists of token ids, not {arguments.kind(texts)}")
    for number, ids in enumerate(texts):
        if isinstance(ids, str | bytes) or not hasattr(ids, "__len__"):
            raise ValueError(f"{what} {number}: must be a list of token ids, not {arguments.kind(ids)}")
        if not fewest <= len(ids) <= config.T:
            raise ValueError(f"{what} {number} has {len(ids)} tokens; this model reads from {fewest} to {config.T}")
    if (found := _outside(texts, config.vocabulary)) is not None:
        number, id = found
        raise ValueError(f"{what} {number}: token id {id}; this model's are from 0 to {config.vocabulary - 1}")


def check_rows(rows: Sequence[Row], config: ModelConfig) -> None:
    """Raises ValueError for a row that cannot be answered; quick, however many there are."""
    check_ids("row", [row.ids for row in rows], config)
    for number, row in enumerate(rows):
        if len(row.at) != len(row.targets):
            raise ValueError(f"row {number}: {len(row.targets)} targets for {len(row.at)} places; give one for each")
    size_I = np.repeat(*np.array([(len(row.ids), len(row.at)) for row in rows], int).reshape(-1, 2).T)
    if (found := _outside([row.at for row in rows], size_I)) is not None:
        number, place = found
        size = len(rows[number].ids)
        raise ValueError(f"row {number}: place {place} is asked about; its {size} tokens are at 0 to {size - 1}")
    if (found := _outside([row.targets for row in rows], config.vocabulary)) is not None:
        number, id = found
        raise ValueError(f"row {number}: target {id}; this model's token ids are from 0 to {config.vocabulary - 1}")


def _outside(each: Sequence[Sequence[int]], limit: int | np.ndarray) -> tuple[int, str] | None:
    """(its number, the value) of the first that holds what is no whole number from 0 to below the limit.

    N: all values, joined; a float64 each, which keeps a fraction and has room for any number.
    """
    try:
        value_I = np.fromiter(itertools.chain.from_iterable(each), np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"ids and places are whole numbers: {error}") from None
    good_I = (value_I >= 0) & (value_I < limit) & (value_I % 1 == 0)
    if good_I.all():
        return None
    first = int(good_I.argmin())
    number = int(np.searchsorted(np.cumsum([len(values) for values in each]), first, side="right"))
    return number, f"{value_I[first]:.15g}"


class ScoreRequest:
    """Ids that are read once for all rows that hold them, and the I questions of those rows, joined."""

    def __init__(self, ids: Sequence[int], prefix: int = 0):
        self.ids, self.prefix = ids, prefix
        self.at: list[int] = []
        self.targets: list[int] = []

    @functools.cached_property
    def log_prob_I(self) -> np.ndarray:
        return np.zeros(len(self.at), np.float32)

    @functools.cached_property
    def argmax_I(self) -> np.ndarray:
        return np.zeros(len(self.at), np.int32)


class RowBatch(NamedTuple):
    """What one call of the compiled program reads and answers."""

    rows: list[
        tuple[ScoreRequest, int]
    ]  # at most B; of each, which of its questions is the first that is answered here
    B: int  # rows that are compiled for; those that are not needed are empty
    T: int  # tokens that a row is padded to
    Q: int  # questions of a row that are answered, at most
    q: int  # questions of a row whose scores over the whole vocabulary exist at once; divides Q


def batches_of(requests: Sequence[ScoreRequest], longest: int, batch_tokens: int | None) -> list[RowBatch]:
    """The batches that answer every question once.

    Long rows go first, so that memory that does not suffice is noticed at once. Of one padded length, the rows with
    most questions go first: a batch takes as long as the row of it that has most, so that they should be alike.
    """
    batch_tokens = read_at_once(batch_tokens)
    padded_lengths = [padded_length(len(request.ids), longest) for request in requests]
    shortest = shortest_length(set(padded_lengths))
    by_length: dict[int, list[ScoreRequest]] = {}
    for request, length in zip(requests, padded_lengths, strict=True):
        by_length.setdefault(max(shortest, length), []).append(request)
    batches = []
    for T, same in sorted(by_length.items(), reverse=True):
        rows_of_device = min(ASKED_AT_ONCE, max(1, batch_tokens // T))
        B, q = rows_of_device * row_ways(), ASKED_AT_ONCE // rows_of_device
        Q = -(-T // q) * q  # one for every token; a row that is asked more comes in several batches
        rows = [(request, first) for request in same for first in range(0, len(request.at), Q)]
        rows.sort(key=lambda row: len(row[0].at) - row[1], reverse=True)  # by how many questions are left
        batches += [RowBatch(rows[begin : begin + B], B, T, Q, q) for begin in range(0, len(rows), B)]
    return batches


def read_at_once(batch_tokens: int | None) -> int:
    """Tokens that each device reads at once. Raises ValueError for none."""
    if batch_tokens is None:  # on a CPU more are hardly faster, and a text that comes alone pays for all of them
        return 512 if jax.default_backend() == "cpu" else 16_384
    if arguments.whole("batch_tokens", batch_tokens) < 1:
        raise ValueError(f"batch_tokens={batch_tokens}: must be at least 1")
    return batch_tokens


def _answer(model: Transformer, params: Any, batch: RowBatch, view: View) -> None:
    """Reads a batch, and writes the answers into its rows."""
    at_BQ, target_BQ = np.zeros((2, batch.B, batch.Q), np.int32)
    for b, (request, first) in enumerate(batch.rows):
        at, targets = (asked[first : first + batch.Q] for asked in (request.at, request.targets))
        at_BQ[b, : len(at)], target_BQ[b, : len(at)] = at, targets
    most = min(batch.Q, max(len(request.at) - first for request, first in batch.rows))
    seen_B = np.zeros(batch.B, np.int32)  # first tokens that every one of their row sees
    seen_B[: len(batch.rows)] = [batch.T if view == "bidirectional" else request.prefix for request, _ in batch.rows]
    found = _answers(
        model, params, *padded(batch), at_BQ, target_BQ, np.int32(-(-most // batch.q)), seen_B, q=batch.q
    )  # fmt: skip
    nll_BQ, argmax_BQ = jax.device_get(found)
    for b, (request, first) in enumerate(batch.rows):
        here = slice(first, min(first + batch.Q, len(request.at)))
        request.log_prob_I[here] = -nll_BQ[b, : here.stop - first]
        request.argmax_I[here] = argmax_BQ[b, : here.stop - first]


def text_batches(
    texts: Sequence[Sequence[int]], config: ModelConfig, *, batch_tokens: int | None = None,
    progress: Progress | None = None,
) -> Iterator[tuple[list[int], tuple[np.ndarray, np.ndarray]]]:  # fmt: skip
    """Whole texts, each read once: (numbers of a batch's texts, what `padded` makes of it), batch after batch."""
    requests = [ScoreRequest(ids) for ids in texts]
    for number, request in enumerate(requests):
        request.at, request.targets = [len(request.ids) - 1], [number]
    batches = batches_of(requests, config.T, batch_tokens)
    for done, batch in enumerate(batches, start=1):
        yield [request.targets[0] for request, _ in batch.rows], padded(batch)
        if progress is not None:
            progress(done, len(batches))


def padded(batch: RowBatch) -> tuple[np.ndarray, np.ndarray]:
    """(ids of its rows, i32 [B,T]; how many each has, i32 [B]); rows that are not needed are empty."""
    tokens_BT, length_B = np.zeros((batch.B, batch.T), np.int32), np.zeros(batch.B, np.int32)
    for b, (request, _) in enumerate(batch.rows):
        tokens_BT[b, : len(request.ids)], length_B[b] = request.ids, len(request.ids)
    return tokens_BT, length_B


@functools.partial(jax.jit, static_argnames=("model", "q"))
def _answers(
    model: Transformer, params: Any, tokens_BT: Any, length_B: Any, at_BQ: Any, target_BQ: Any,
    pieces: Any, seen_B: Any, *, q: int,
) -> tuple[jax.Array, jax.Array]:  # fmt: skip
    """(nats, argmax) of every target [B,Q]; of the first `pieces` pieces of q targets a row, 0 beyond."""
    seen_BT = jnp.arange(tokens_BT.shape[1])[None, :] < seen_B[:, None]
    hidden_BTD = states(model, params, tokens_BT, length_B, seen_BT)
    config = model.config

    def piece(number, found_BQ):
        at_Bq, target_Bq = (jax.lax.dynamic_slice_in_dim(x, number * q, q, axis=1) for x in (at_BQ, target_BQ))
        state_BqD = jnp.take_along_axis(hidden_BTD, at_Bq[..., None], axis=1)
        found_Bq = token_scores(
            state_BqD, head(params), target_Bq, vocabulary=config.vocabulary, chunks=1, cap=config.logit_cap
        )
        return jax.tree.map(
            lambda x_BQ, x_Bq: jax.lax.dynamic_update_slice_in_dim(x_BQ, x_Bq, number * q, axis=1), found_BQ, found_Bq
        )

    nothing_BQ = jnp.zeros(at_BQ.shape, jnp.float32), jnp.zeros(at_BQ.shape, jnp.int32)
    return jax.lax.fori_loop(0, pieces, piece, nothing_BQ)


def states(
    model: Transformer, params: Any, tokens_BT: Any, length_B: Any, bidirectional: Any, shift_BTD: Any = None
) -> jax.Array:
    """Final hidden states [B,T,D] of rows of `length_B` tokens, padded on the right.

    `bidirectional`: bool, of all of them or [B,T], which of them every token of their row sees. `shift_BTD`: what is
    added to the embeddings, to be differentiated by; None = nothing.
    """
    shifted = {} if shift_BTD is None else {"perturbations": {"embedded_BTD": shift_BTD}}
    hidden_BTD, _ = model.apply({"params": params, **shifted}, *as_read(tokens_BT, length_B, bidirectional))
    return hidden_BTD


def as_read(tokens_BT: Any, length_B: Any, bidirectional: Any) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """(tokens, segments, positions, what all of a row see), each [B,T], as the model takes such rows."""
    position_BT = jnp.broadcast_to(jnp.arange(tokens_BT.shape[1])[None, :], tokens_BT.shape)
    inside_BT = position_BT < length_B[:, None]
    return tokens_BT, inside_BT.astype(jnp.int32), position_BT * inside_BT, inside_BT & bidirectional


def continuation_row(context: Sequence[int], continuation: Sequence[int], T: int) -> Row:
    """Asks for a continuation behind a context of at least one token; too long a context loses its beginning.

    The last token is predicted, but not read: together they may be one more than the context window T holds.
    """
    ids = [*context, *continuation][-(T + 1) :]
    return Row(ids[:-1], range(len(ids) - 1 - len(continuation), len(ids) - 1), ids[-len(continuation) :])


def rolling_rows(ids: Sequence[int], before: int, T: int) -> list[Row]:
    """Asks for every id of a text once. The first T are read behind `before`; after them each window asks for the next
    T, or for what is left behind as many earlier tokens as fit."""
    rows = [Row([before, *ids[: T - 1]], range(min(T, len(ids))), ids[:T])]
    for begin in range(T, len(ids), T):
        end = min(begin + T, len(ids))
        rows.append(Row(ids[end - T - 1 : end - 1], range(T - (end - begin), T), ids[begin:end]))
    return rows


def continuation_rows(context: Sequence[int], continuation: Sequence[int], T: int) -> list[Row]:
    """As `continuation_row`; a continuation of more than T tokens in the windows of `rolling_rows` over both."""
    if len(continuation) <= T:
        return [continuation_row(context, continuation, T)]
    rows, left = [], len(context) - 1  # tokens that nobody asks for
    for ids, at, targets, _ in rolling_rows([*context[1:], *continuation], context[0], T):
        if left < len(targets):
            rows.append(Row(ids, at[left:], targets[left:]))
        left = max(0, left - len(targets))
    return rows


def hidden_rows(ids: Sequence[int], mask: int | None) -> list[Row]:
    """Asks for every id but the first, each in a row of its own in which `mask` hides it; to be seen from both sides.

    The state before a token predicts it, as in training: Charpentier and Samuel 2024, arXiv:2410.24159, section 2.
    Raises ValueError where the vocabulary has no mask.
    """
    if mask is None:
        raise ValueError("view='bidirectional' hides tokens behind a mask, and this vocabulary has none; use 'causal'")
    return [Row([*ids[:j], mask, *ids[j + 1 :]], [j - 1], [ids[j]]) for j in range(1, len(ids))]


def log_probs(
    model: Transformer, params: Any, texts: Sequence[Sequence[int]], *, view: View = "causal", mask: int | None = None
) -> list[np.ndarray]:
    """The log-probability of every token of each text but its first, nats in float32: f32 [tokens - 1] a text.

    `causal`: given the tokens before it. They add up to the text's log-likelihood. `bidirectional`: given all others,
    by hiding one token at a time behind `mask` in an encoder's view, a row for every token; their sum is the
    pseudo-log-likelihood, which is no probability of the text, but ranks texts. It is for models trained on masked_lm.

    Texts are ids and begin with BOS. Raises ValueError for a text of fewer than 2 tokens or beyond the context, and
    where no mask is given to hide tokens behind.

    Source: Salazar et al. 2020, arXiv:1910.14659, section 2.
    """
    check_ids("text", texts, model.config, fewest=2)
    check_view(view)
    if view == "causal":
        rows = [[continuation_row(ids[:1], ids[1:], model.config.T)] for ids in texts]
    else:
        rows = [hidden_rows(ids, mask) for ids in texts]
    scores = iter(score(model, params, list(itertools.chain.from_iterable(rows)), view=view))
    return [np.concatenate([next(scores).log_probs for _ in rows_of_text]) for rows_of_text in rows]
