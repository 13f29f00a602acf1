"""Scores of tokens against one forward pass a row: alone, in any company, in every batch and on every mesh."""

import itertools
import random
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gptjax.decoding.padding import LENGTHS
from gptjax.inference.language_model import LanguageModel
from gptjax.inference.scoring import (
    ASKED_AT_ONCE,
    Row,
    ScoreRequest,
    batches_of,
    check_rows,
    check_view,
    continuation_row,
    log_probs,
    rolling_rows,
)  # fmt: skip
from gptjax.nn.likelihood import logits_from
from gptjax.nn.model import head
from gptjax.sharding import make_mesh
from tests.tiny_run import random_model

MODEL = random_model()
TEXTS = [[1, 40, 41, 42, 43], [1, 50], [1, *range(30, 60)]]
MASK = MODEL.tokenizer.mask


def reference(ids, visible):
    """Log-probabilities of every id at every position of one row alone; its padding is another document."""
    padded = np.pad(ids, (0, MODEL.config.T - len(ids)))
    return np.asarray(_reference(MODEL.params, padded, len(ids), visible))[: len(ids)]


@jax.jit
def _reference(params, tokens_T, length, visible):
    place_1T = jnp.arange(tokens_T.size)[None]
    real_1T = place_1T < length
    hidden_1TD, _ = MODEL._model.apply(
        {"params": params}, tokens_T[None], real_1T.astype(int), place_1T, real_1T & visible
    )
    return jax.nn.log_softmax(logits_from(hidden_1TD, head(params), MODEL.config.vocabulary))[0]


def uneven_rows(count, seed=0):
    """Rows of 1 to 64 ids that ask about up to 12 places."""
    chance = random.Random(seed)
    rows = []
    for _ in range(count):
        ids = chance.choices(range(4, 280), k=chance.choice([1, 17, 64]))
        at = sorted(chance.sample(range(len(ids)), k=min(len(ids), chance.randint(1, 12))))
        rows.append(Row(ids, at, chance.choices(range(280), k=len(at))))
    return rows


def test_causal_scores_are_those_of_one_text_alone():
    """Padding, batch and bucket change nothing."""
    for ids, found in zip(TEXTS, MODEL.log_probs(TEXTS), strict=True):
        wanted = reference(ids, visible=False)[np.arange(len(ids) - 1), np.array(ids[1:])]
        np.testing.assert_allclose(found, wanted, atol=1e-4)


def test_each_token_is_scored_with_only_itself_hidden():
    """Token j is predicted by the state before it, in a row in which all but j are seen from both sides."""
    found = MODEL.log_probs(TEXTS, view="bidirectional")
    for ids, scores in zip(TEXTS, found, strict=True):
        for j in range(1, len(ids)):
            corrupted = [*ids[:j], MASK, *ids[j + 1 :]]
            np.testing.assert_allclose(scores[j - 1], reference(corrupted, visible=True)[j - 1, ids[j]], atol=1e-4)


def test_a_later_token_moves_the_score_from_both_sides_alone():
    """Changing the last token leaves the causal score of the second, and moves the other."""
    one, other = [1, 40, 41, 42], [1, 40, 41, 43]
    causal = MODEL.log_probs([one, other])
    both = MODEL.log_probs([one, other], view="bidirectional")
    np.testing.assert_array_equal(causal[0][:2], causal[1][:2])
    assert abs(both[0][0] - both[1][0]) > 1e-3


def test_every_target_is_answered_by_the_place_that_it_asks_about():
    """Log-probability and likeliest id of rows of all lengths, whatever their order of asking."""
    for row, found in zip(rows := uneven_rows(30), MODEL.score(rows), strict=True):
        wanted = reference(row.ids, visible=False)[row.at]
        np.testing.assert_allclose(found.log_probs, wanted[np.arange(len(row.at)), row.targets], atol=1e-4)
        np.testing.assert_array_equal(found.argmax, wanted.argmax(axis=-1))


def test_a_row_scores_the_same_to_the_last_bit_alone_in_company_and_in_any_order():
    """1 row, 300 and their reverse: also those of a last batch that is not full."""
    rows = uneven_rows(300)
    together, reversed_ = MODEL.score(rows), MODEL.score(rows[::-1])[::-1]
    for number in (0, 1, 2, 150, 299):
        [alone] = MODEL.score([rows[number]])
        for other in (together[number], reversed_[number]):
            np.testing.assert_array_equal(alone.log_probs, other.log_probs)
            np.testing.assert_array_equal(alone.argmax, other.argmax)
    assert len({tuple(found.log_probs) for found in together}) > 290


@pytest.mark.parametrize("batch_tokens", [1, 100, 10_000])
def test_another_batch_size_moves_scores_by_rounding_only(batch_tokens):
    rows = uneven_rows(40)
    for one, other in zip(MODEL.score(rows), MODEL.score(rows, batch_tokens=batch_tokens), strict=True):
        np.testing.assert_allclose(one.log_probs, other.log_probs, atol=1e-4)


@pytest.mark.parametrize("axes", [{"data": 8}, {"data": 2, "fsdp": 2, "tensor": 2}])
def test_another_number_of_devices_moves_scores_by_rounding_only(axes):
    """One device against eight, both views, the smallest batches too."""
    meshed = LanguageModel(MODEL.config, MODEL.tokenizer, jax.device_get(MODEL.params), mesh=make_mesh(**axes))
    rows = [row for row in uneven_rows(40) if len(row.ids) == 17]
    for options in ({"view": "causal"}, {"view": "bidirectional"}, {"batch_tokens": 1}):
        for one, other in zip(MODEL.score(rows, **options), meshed.score(rows, **options), strict=True):
            np.testing.assert_allclose(one.log_probs, other.log_probs, atol=1e-4)


def test_few_lengths_are_compiled_whatever_comes():
    """1,000 rows of 1 to 60,000 tokens need at most LENGTHS shapes; those of this model three, the second time none."""
    chance = random.Random(0)
    requests = [ScoreRequest([0] * int(2 ** chance.uniform(0, 15.8))) for _ in range(1000)]
    for request in requests:
        request.at = [0]
    assert len({(batch.B, batch.T, batch.Q, batch.q) for batch in batches_of(requests, 65_536, 2048)}) == LENGTHS
    compiled = []

    def note(event, *_, **__):
        if "backend_compile" in event:
            compiled.append(event)

    jax.monitoring.register_event_duration_secs_listener(note)
    fresh = random_model("gpt2")  # no other test scores with it
    jax.block_until_ready(fresh.params)
    compiled.clear()
    fresh.score(uneven_rows(100))
    assert len(compiled) == 3
    fresh.score(uneven_rows(50, seed=1), view="bidirectional")
    assert len(compiled) == 3


def test_rows_of_equal_ids_are_read_once():
    """Many one-token continuations of one context cost one row, even more of them than a row may ask about."""
    told = []
    labels = [continuation_row([1, 40, 41], [label], 64) for label in range(4, 250)]
    found = MODEL.score(labels, progress=lambda *done: told.append(done))
    assert told == [(1, 1)]
    wanted = reference([1, 40, 41], visible=False)[2]
    np.testing.assert_allclose([one.log_probs[0] for one in found], wanted[4:250], atol=1e-4)


def test_too_long_a_context_loses_its_beginning():
    """The last token is predicted but not read, so that T + 1 ids fit."""
    row = continuation_row(range(10), [20, 21], T=8)
    assert row == Row([3, 4, 5, 6, 7, 8, 9, 20], range(6, 8), [20, 21])
    assert continuation_row([5], [20], T=8) == Row([5], range(1), [20])


def test_rolling_windows_predict_every_token_once_and_the_last_has_a_full_context():
    """Ten tokens behind a prefix in windows of four, as lm_eval's own description of it lays them out."""
    rows = rolling_rows(list(range(10)), before=99, T=4)
    assert [list(row.ids) for row in rows] == [[99, 0, 1, 2], [3, 4, 5, 6], [5, 6, 7, 8]]
    assert [list(row.targets) for row in rows] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert [list(row.at) for row in rows] == [[0, 1, 2, 3], [0, 1, 2, 3], [2, 3]]
    for length in range(12):
        rows = rolling_rows(list(range(length)), before=99, T=4)
        assert list(itertools.chain.from_iterable(row.targets for row in rows)) == list(range(length))


@pytest.mark.parametrize(
    ("texts", "options", "said"),
    [
        ([[1]], {}, "text 0 has 1 tokens"),
        ([[1, 5], [1] * 65], {}, "text 1 has 65 tokens; this model reads from 2 to 64"),
        ([[1, 5]], {"view": "bidirectional"}, "this vocabulary has none"),
    ],
)
def test_what_cannot_be_read_is_named(texts, options, said):
    """Too short, too long, no mask."""
    with pytest.raises(ValueError, match=said):
        log_probs(MODEL._model, MODEL.params, texts, **options)


@pytest.mark.parametrize("length", [0, 65])
def test_a_row_that_does_not_fit_is_named(length):
    with pytest.raises(ValueError, match=f"row 1 has {length} tokens; this model reads from 1 to 64"):
        MODEL.score([Row([1], [0], [2]), Row([1] * length, [0], [2])])


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (Row([1, 999], [0], [2]), "row 1: token id 999; this model's are from 0 to {last}"),
        (Row([1, -1], [0], [2]), "row 1: token id -1"),
        (Row([1], [0], [999]), "row 1: target 999; this model's token ids are from 0 to {last}"),
        (Row([1, 2**70], [0], [5]), "row 1: token id 1.18059162071741e[+]21; this model's are from 0 to {last}"),
        (Row([1, 2], [2], [5]), "row 1: place 2 is asked about; its 2 tokens are at 0 to 1"),
        (Row([1, 2], [-1], [5]), "row 1: place -1"),
        (Row([1, 2], [0, 1], [5]), "row 1: 1 targets for 2 places"),
    ],
)
def test_a_row_that_asks_what_there_is_not_is_named(row, said):
    """Before anything is read."""
    with pytest.raises(ValueError, match=said.format(last=MODEL.config.vocabulary - 1)):
        MODEL.score([Row([1], [0], [2]), row], progress=pytest.fail)


def test_rows_may_come_one_by_one_and_settings_are_checked():
    rows = uneven_rows(3)
    for one, other in zip(MODEL.score(iter(rows)), MODEL.score(rows), strict=True):
        np.testing.assert_array_equal(one.log_probs, other.log_probs)
    assert MODEL.score([]) == []
    with pytest.raises(ValueError, match="batch_tokens=0: must be at least 1"):
        MODEL.score(rows, batch_tokens=0)
    with pytest.raises(ValueError, match="view='both': must be 'causal' or 'bidirectional'"):
        check_view("both")


def test_a_hundred_thousand_rows_are_checked_at_once():
    """Two million ids in less than a second, which is no share of reading them."""
    rows = [Row(range(20), range(18, 20), [1, 2])] * 100_000
    began = time.perf_counter()
    check_rows(rows, MODEL.config)
    assert time.perf_counter() - began < 1


def test_scores_that_are_no_numbers_are_refused_with_their_row():
    """Of two rows that read the same, the one that asks."""
    params = dict(MODEL.params, head=MODEL.params["head"].at[7].set(np.nan))
    broken = LanguageModel(MODEL.config, MODEL.tokenizer, params)
    with pytest.raises(ValueError, match="scores of row 1 are not numbers"):
        broken.score([Row([1, 5], [], []), Row([1, 5], [0], [2])])


def test_no_more_places_than_promised_meet_the_vocabulary_at_once():
    """Whatever the lengths and `batch_tokens`; a CPU's batches are not cut by it."""
    requests = [ScoreRequest([0] * length) for length in (1, 16, 30, 100, 1000)]
    for request in requests:
        request.at = [0]
    for batch_tokens in (1, 512, 16_384, 1_000_000):
        batches = batches_of(requests, 1024, batch_tokens)
        assert max(batch.B * batch.q for batch in batches) <= ASKED_AT_ONCE
    assert {(batch.T, batch.B) for batch in batches_of(requests, 1024, 512)} == {
        (1024, 1),
        (128, 4),
        (32, 16),
        (16, 32),
    }
