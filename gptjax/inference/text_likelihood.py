"""How probable a model finds texts and continuations: text in, nats and perplexity out."""

import functools
import itertools
import math
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple, Unpack

import numpy as np

from gptjax import arguments
from gptjax.arguments import listed, listed_texts
from gptjax.inference.prompt import encode_prompts
from gptjax.inference.scoring import ScoreOptions, View, check_view, continuation_rows, hidden_rows, rolling_rows
from gptjax.results import Result, metric

if TYPE_CHECKING:
    from gptjax.inference.language_model import LanguageModel


class Continuation(NamedTuple):
    """How a model finds a continuation."""

    log_prob: float  # nats: of all its tokens, given the context
    greedy: bool  # whether each of its tokens is the likeliest one there


def loglikelihood(
    model: "LanguageModel", pairs: Iterable[tuple[str, str]], **options: Unpack[ScoreOptions]
) -> list[Continuation]:
    """How probable each (context, continuation) is, in order.

    Both are encoded together, and the tokens behind those of the context alone are scored; spaces at the context's end
    count to the continuation. An empty context is a BOS. Where both exceed the model's context by more than the last
    token, which is not read, the beginning is cut off; a continuation that alone does is read in windows, as by
    `loglikelihood_rolling`, with a warning. `reading`: batch_tokens and progress, as in
    gptjax.inference.scoring.score. These are the rules of lm_eval. One is added: where no token lies behind ("mis",
    "take"), the context gives tokens back until one of both together does.

    Raises ValueError that names a continuation that is empty.
    """
    return continuations(model, encoded_pairs(model, pairs), **options)


def encoded_pairs(
    model: "LanguageModel",
    pairs: Iterable[Sequence[str]],
    encode: Callable[[Sequence[str]], list[list[int]]] | None = None,
    name: Callable[[int], str] = "pair {}".format,
) -> list[tuple[list[int], list[int]]]:
    """(ids of the context, ids of the continuation) of every pair.

    `encode`: texts to the ids of prompts, None = as of plain texts. `name`: what errors call a pair.
    """
    if encode is None:
        encode = functools.partial(encode_prompts, model.tokenizer, model.generation_config)
    split = []
    for number, pair in enumerate(listed(pairs, "pairs")):
        if isinstance(pair, str | bytes) or not isinstance(pair, Sequence) or len(pair) != 2:
            raise ValueError(f"{name(number)}: {pair!r} is no (context, continuation)")
        context, continuation = (arguments.text(name(number), part) for part in pair)
        kept = context.rstrip()
        split.append((kept, context[len(kept) :] + continuation))
    bos = [model.tokenizer.bos]
    found = []
    wholes = encode([context + continuation for context, continuation in split])
    for number, (before, whole) in enumerate(zip(encode([context for context, _ in split]), wholes, strict=True)):
        if not split[number][1] or whole == bos:
            raise ValueError(f"{name(number)}: the continuation is empty; there is nothing to score")
        if before == bos and whole[:1] != bos:  # an empty context, and texts that begin without BOS
            before = []
        if len(whole) <= len(before):
            before = before[: min(_common(before, whole), len(whole) - 1)]
        after = whole[len(before) :]
        if len(after) > model.config.T:
            warnings.warn(
                f"{name(number)}: the continuation {split[number][1][:40]!r} is longer than the context of "
                f"{model.config.T}; its {len(after)} tokens are read in windows",
                stacklevel=2,
            )
        found.append((before or bos, after))
    return found


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    """How many ids at their beginning are the same."""
    differ = (place for place, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)
    return next(differ, min(len(one), len(other)))


def continuations(
    model: "LanguageModel", pairs: Sequence[tuple[Sequence[int], Sequence[int]]], **options: Unpack[ScoreOptions]
) -> list[Continuation]:
    """As `loglikelihood`, of (context, continuation) in ids."""
    rows = [continuation_rows(context, continuation, model.config.T) for context, continuation in pairs]
    scores = iter(model.score(list(itertools.chain.from_iterable(rows)), **options))
    found = []
    for rows_of_pair in rows:
        pieces = [(row, next(scores)) for row in rows_of_pair]
        log_prob = sum(float(piece.log_probs.sum(dtype=np.float64)) for _, piece in pieces)
        greedy = all(bool((piece.argmax == row.targets).all()) for row, piece in pieces)
        found.append(Continuation(log_prob, greedy))
    return found


def loglikelihood_rolling(model: "LanguageModel", texts: Iterable[str], **options: Unpack[ScoreOptions]) -> list[float]:
    """The log-likelihood of each text, nats: every token predicted once, from as many before it as a window holds.

    The first window begins with BOS; the texts do not see each other. The rules are those of lm_eval.
    """
    return rolling(model, model.tokenizer.encode_batch(listed_texts(texts, "texts")), **options)


def rolling(model: "LanguageModel", texts: Sequence[Sequence[int]], **options: Unpack[ScoreOptions]) -> list[float]:
    """As `loglikelihood_rolling`, of texts in ids without BOS."""
    rows = [rolling_rows(ids, model.tokenizer.bos, model.config.T) for ids in texts]
    scores = iter(model.score(list(itertools.chain.from_iterable(rows)), **options))
    return [float(sum(next(scores).log_probs.sum(dtype=np.float64) for _ in rows_of_text)) for rows_of_text in rows]


def perplexity(
    model: "LanguageModel",
    texts: Iterable[str],
    *,
    view: View = "causal",
    seed: int = 0,
    **options: Unpack[ScoreOptions],
) -> Result:
    """Nats a token, perplexity and bits a byte (of UTF-8) over all texts together; EOS is not predicted.

    `causal`: as `loglikelihood_rolling`. `bidirectional`: each token is hidden in turn, and predicted from all others
    of its piece of at most T - 1 tokens (gptjax.inference.scoring.log_probs): for models trained on masked_lm, and a
    row a token. Empty texts are left out. An item: text (its number, from 0), tokens, bytes, log_prob (nats).
    Intervals: see gptjax.results.metric, with `seed`.
    """
    check_view(view)
    kept = [(number, text) for number, text in enumerate(listed_texts(texts, "texts")) if text]
    if not kept:
        raise ValueError("perplexity: there is no text to read")
    encoded = model.tokenizer.encode_batch([text for _, text in kept])
    if view == "causal":
        log_prob = rolling(model, encoded, **options)
    else:
        log_prob = _bidirectional(model, encoded, **options)
    items = [
        {"text": number, "tokens": len(ids), "bytes": len(text.encode("utf-8")), "log_prob": found}
        for (number, text), ids, found in zip(kept, encoded, log_prob, strict=True)
    ]
    nll_I, tokens_I, bytes_I = np.array([(-item["log_prob"], item["tokens"], item["bytes"]) for item in items]).T

    def mean(drawn: np.ndarray, size_I: np.ndarray = tokens_I) -> float:
        return nll_I[drawn].sum() / size_I[drawn].sum()

    figures = {
        "nats a token": mean,
        "perplexity": lambda drawn: float(np.exp(mean(drawn))),
        "bits a byte": lambda drawn: mean(drawn, bytes_I) / math.log(2),
    }
    counts = {"texts": len(kept), "tokens": int(tokens_I.sum()), "bytes": int(bytes_I.sum())}
    with np.errstate(over="ignore"):  # a perplexity beyond all numbers is infinite
        metrics = {name: metric(figure, len(items), seed) for name, figure in figures.items()}
    return Result(task=f"perplexity, {view}", counts=counts, metrics=metrics, items=items)


def _bidirectional(
    model: "LanguageModel", texts: Sequence[Sequence[int]], **options: Unpack[ScoreOptions]
) -> list[float]:
    """The pseudo-log-likelihood of each text, nats."""
    bos, mask = model.tokenizer.bos, model.tokenizer.mask
    pieces = [list(itertools.batched(ids, model.config.T - 1)) for ids in texts]
    rows = [[row for piece in each for row in hidden_rows([bos, *piece], mask)] for each in pieces]
    scores = iter(model.score(list(itertools.chain.from_iterable(rows)), view="bidirectional", **options))
    return [float(sum(float(next(scores).log_probs[0]) for _ in rows_of_text)) for rows_of_text in rows]
