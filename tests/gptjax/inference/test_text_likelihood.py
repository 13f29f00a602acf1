"""Text in, nats out: where a continuation begins, what stands before it, windows, and perplexity by hand."""

import math

import numpy as np
import pytest

from gptjax.inference.generation_config import GenerationConfig
from gptjax.inference.language_model import LanguageModel
from gptjax.inference.scoring import Row, rolling_rows
from gptjax.inference.text_likelihood import continuations, encoded_pairs
from tests.tiny_run import TEXT, random_model

MODEL = random_model()
T, BOS = MODEL.config.T, MODEL.tokenizer.bos
encode = MODEL.tokenizer.encode


def sum_behind(ids, count):
    """The log-probability of the last `count` ids behind the others, which go first."""
    return MODEL.log_probs([ids])[0][-count:].sum()


def windowed(ids, count):
    """The same, of up to T + 1 ids, the last of which is not read."""
    [scores] = MODEL.score([Row(ids[:-1], range(len(ids) - 1 - count, len(ids) - 1), ids[-count:])])
    return scores.log_probs.sum()


def test_a_continuation_is_scored_behind_its_context_and_spaces_belong_to_it():
    """A space at the context's end counts to the continuation, as the tokenizer has it."""
    whole = encode("hello there the quick")
    count = len(whole) - len(encode("hello there"))
    wanted = sum_behind([BOS, *whole], count)
    plain, spaced = MODEL.loglikelihood([("hello there", " the quick"), ("hello there ", "the quick")])
    assert plain == spaced
    assert plain.log_prob == pytest.approx(wanted, abs=1e-4)
    assert MODEL.loglikelihood([("hello there", "the quick")])[0] != plain


def test_an_empty_context_is_a_bos():
    [found] = MODEL.loglikelihood([("", "lazy dog")])
    assert found.log_prob == pytest.approx(sum_behind([BOS, *(ids := encode("lazy dog"))], len(ids)), abs=1e-4)
    assert MODEL.loglikelihood([(" ", "lazy dog")])[0] == MODEL.loglikelihood([("", " lazy dog")])[0]


def test_a_model_whose_texts_begin_without_bos_is_asked_without_it():
    """An empty context is one all the same: something must predict the first token."""
    generation_config = GenerationConfig(ends=frozenset({MODEL.tokenizer.eos}), begins_with_bos=False)
    plain = LanguageModel(MODEL.config, MODEL.tokenizer, MODEL.params, generation_config=generation_config)
    pair = ("hello there", " the quick")
    count = len(encode("".join(pair))) - len(encode(pair[0]))
    [found] = plain.loglikelihood([pair])
    assert found.log_prob == pytest.approx(sum_behind(encode("".join(pair)), count), abs=1e-4)
    assert abs(found.log_prob - MODEL.loglikelihood([pair])[0].log_prob) > 1e-3
    assert plain.loglikelihood([("", "fox")]) == MODEL.loglikelihood([("", "fox")])


def test_greedy_is_true_of_what_the_model_would_say_and_of_nothing_else():
    """Its own greedy tokens, and one of them changed."""
    [[said]] = MODEL.generate([BOS, *encode("the quick")], tokens=4, temperature=0)
    context = [BOS, *encode("the quick")]
    changed = [*said.ids[:-1], said.ids[-1] ^ 1]
    found, other = continuations(MODEL, [(context, list(said.ids)), (context, changed)])
    assert (found.greedy, other.greedy) == (True, False)
    assert found.log_prob == pytest.approx(sum(said.log_probs), abs=1e-4)


def test_a_context_that_is_too_long_loses_its_beginning():
    long = TEXT * 4 + "the"
    ids = [BOS, *encode(long + " fox")]
    count = len(ids) - 1 - len(encode(long))
    [found] = MODEL.loglikelihood([(long, " fox")])
    assert len(ids) > T + 1
    assert found.log_prob == pytest.approx(windowed(ids[-T - 1 :], count), abs=1e-4)


def test_a_continuation_that_cannot_be_scored_is_named():
    with pytest.raises(ValueError, match="pair 1: the continuation is empty"):
        MODEL.loglikelihood([("a", "b"), ("hello", "")])


@pytest.mark.parametrize("context", ["hello", "the lazy dog " * 20])
def test_a_continuation_beyond_the_context_is_read_in_windows_with_a_warning(context):
    """Both together as a rolling text, less what its part within the context has; a shorter one is read as ever."""
    with pytest.warns(UserWarning, match=r"^pair 1: the continuation '.*' is longer than the context of 64"):
        short, long = MODEL.loglikelihood([("a", "b"), (context, TEXT * 9)])
    assert short == MODEL.loglikelihood([("a", "b")])[0]
    before, whole = encode(context.rstrip()), encode(context + TEXT * 9)
    log_prob_I = np.concatenate([found.log_probs for found in MODEL.score(rolling_rows(whole, BOS, T))])
    assert len(whole) - len(before) > T
    assert long.log_prob == pytest.approx(log_prob_I[len(before) :].sum(), abs=1e-2)
    assert not long.greedy


def test_a_continuation_that_ends_the_last_token_of_its_context_is_scored_from_that_token_on():
    """As many tokens together as the context has alone, and the last is another; also where it is the only one."""
    before, whole = encode("the qui"), encode("the quick")
    assert len(before) == len(whole)
    assert before[:-1] == whole[:-1]
    found, alone = MODEL.loglikelihood([("the qui", "ck"), ("qui", "ck")])
    assert found.log_prob == pytest.approx(sum_behind([BOS, *whole], 1), abs=1e-4)
    assert alone.log_prob == pytest.approx(sum_behind([BOS, *encode("quick")], 1), abs=1e-4)
    [swallowed] = encoded_pairs(MODEL, [("a", "b")], lambda texts: [[7] if text == "a" else [8] for text in texts])
    assert swallowed == ([BOS], [8])
    [repeated] = encoded_pairs(MODEL, [("a", "b")], lambda texts: [[7, 8, 9] if text == "a" else [7] for text in texts])
    assert repeated == ([BOS], [7])


@pytest.mark.parametrize("ask", [MODEL.loglikelihood_rolling, MODEL.perplexity])
def test_one_text_where_several_are_wanted_is_refused(ask):
    with pytest.raises(ValueError, match="='hello': is one text; give a list of them"):
        ask("hello")


@pytest.mark.parametrize(
    ("pairs", "said"),
    [
        ("hello", "pairs='hello': is one text"),
        (("hello", " there"), r"pair 0: 'hello' is no \(context, continuation\)"),
        ([("a", "b"), ("a", "b", "c")], r"pair 1: \('a', 'b', 'c'\) is no"),
    ],
)
def test_what_is_no_pair_is_refused(pairs, said):
    with pytest.raises(ValueError, match=said):
        encoded_pairs(MODEL, pairs, MODEL.tokenizer.encode_batch)


def test_perplexity_beyond_all_numbers_is_infinite(monkeypatch):
    monkeypatch.setattr("gptjax.inference.text_likelihood.rolling", lambda *_, **__: [-1e6, -1e6])
    found = MODEL.perplexity(["a", "b"])
    assert found.metrics["perplexity"].value == float("inf")
    assert found.metrics["nats a token"].value == 1e6


def test_rolling_adds_up_windows_that_predict_each_token_once():
    """A text of more than two windows, by hand; and a short one beside it, which does not move it."""
    ids = encode(TEXT * 4)
    assert len(ids) > 2 * T
    full = sum(windowed([BOS, *ids][first : first + T + 1], T) for first in (0, T))
    rest = windowed(ids[-T - 1 :], len(ids) - 2 * T)
    found, short = MODEL.loglikelihood_rolling([TEXT * 4, "fox"])
    assert found == pytest.approx(full + rest, abs=1e-3)
    assert [found] == MODEL.loglikelihood_rolling([TEXT * 4])
    assert short == MODEL.loglikelihood([("", "fox")])[0].log_prob
    assert MODEL.loglikelihood_rolling([""]) == [0]


def test_perplexity_is_over_all_tokens_and_bits_are_over_bytes():
    """Not a mean of means; Chinese has more bytes than characters; an empty text counts for nothing."""
    texts = ["hello there", "", "曹操 jumps over the lazy dog"]
    found = MODEL.perplexity(texts)
    nats = -sum(MODEL.loglikelihood_rolling(texts))
    tokens, size = sum(len(encode(text)) for text in texts), sum(len(text.encode()) for text in texts)
    assert found.counts == {"texts": 2, "tokens": tokens, "bytes": size}
    assert found.metrics["nats a token"].value == pytest.approx(nats / tokens)
    assert found.metrics["perplexity"].value == pytest.approx(math.exp(nats / tokens))
    assert found.metrics["bits a byte"].value == pytest.approx(nats / math.log(2) / size)
    assert [item["text"] for item in found.items] == [0, 2]
    assert sum(item["log_prob"] for item in found.items) == pytest.approx(-nats)


def test_perplexity_from_both_sides_hides_each_token_of_each_piece():
    """A text of more than one piece of T - 1 tokens."""
    ids = encode(TEXT * 2)
    assert T < len(ids) < 2 * T
    pieces = [[BOS, *ids[: T - 1]], [BOS, *ids[T - 1 :]]]
    wanted = sum(scores.sum() for scores in MODEL.log_probs(pieces, view="bidirectional"))
    found = MODEL.perplexity([TEXT * 2], view="bidirectional")
    assert found.items[0]["log_prob"] == pytest.approx(wanted, abs=1e-3)
    assert abs(found.items[0]["log_prob"] - MODEL.perplexity([TEXT * 2]).items[0]["log_prob"]) > 1


def test_perplexity_of_nothing_is_refused():
    with pytest.raises(ValueError, match="no text to read"):
        MODEL.perplexity(["", ""])


def test_the_order_of_texts_changes_their_order_only():
    texts = [TEXT, "fox", "hello there", TEXT * 2, "曹操"]
    forward, backward = MODEL.loglikelihood_rolling(texts), MODEL.loglikelihood_rolling(texts[::-1])
    np.testing.assert_array_equal(forward, backward[::-1])
    assert len(set(forward)) == len(texts)
