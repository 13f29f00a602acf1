"""Rows by number: sources and tasks in the promised shares, and what a row holds depends on its number alone."""

import dataclasses
import json

import numpy as np
import pytest

from data.rows.rowplan import assign
from data.rows.rows import Builder, HeldOutRows, Rows, open_corpus
from data.token_store import TokenStore
from tests.tiny_text import sentences, write_prepared
from train.objectives import Objectives

T = 64
TABLE = Objectives().tasks
RARE = {"causal_lm": 0.5, "masked_lm": 0.25, "prefix_lm": 0.125, "position": 0.0625, "order": 0.0625}


def tasks(shares, **changes):
    """The whole table with these shares of the rows, others 0, and changes of single tasks."""
    made = {name: {"rows": shares.get(name, 0.0)} | changes.get(name, {}) for name in TABLE}
    return {name: dataclasses.replace(task, **made[name]) for name, task in TABLE.items()}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    sources = {"one": sentences(80), "two": sentences(60, seed=1)}
    return write_prepared(tmp_path_factory.mktemp("rows"), sources, {"one": 768, "two": 256})


def equal(one, other) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def shares_of(rows: Rows, first: int, count: int) -> dict[str, list[float]]:
    """Of every source, the share of its rows that each task has among `count` rows."""
    row_R = np.arange(first, first + count)
    source_R, _ = assign(row_R, tuple(rows.rates.values()))
    task_R = rows.tasks_of(row_R)
    return {
        source: [float(np.mean(task_R[source_R == place] == k)) for k in range(len(TABLE))]
        for place, source in enumerate(rows.sources)
    }


def test_the_mixture_follows_its_rates(prepared):
    rows = Rows(prepared, T, 0, None, TABLE)
    named = [rows.source_of(row) for row in range(1024)]
    assert (named.count("one"), named.count("two")) == (768, 256)


def test_the_mixture_may_depend_on_text_and_horizon(tmp_path):
    """Rates come from the tokens that train: by size, or equal parts up to the epoch cap of the smaller source."""
    prepared = write_prepared(tmp_path / "prepared", {"one": sentences(300), "two": sentences(60, seed=1)})
    description = json.loads((prepared / "prepared.json").read_text())

    def share_of_two(mixture: str, horizon: int | None) -> float:
        (prepared / "prepared.json").write_text(json.dumps(description | {"mixture": mixture}))
        rows = Rows(prepared, T, 0, horizon, TABLE)
        assert [rows.source_of(row) for row in range(1024)].count("two") == rows.rates["two"]
        return rows.rates["two"] / 1024

    one, two = (len(TokenStore(prepared / name / "train").tokens) for name in ("one", "two"))
    assert share_of_two("rates", None) == 0.5
    assert share_of_two("proportional", None) == pytest.approx(two / (one + two), abs=1 / 1024)
    assert share_of_two("unimax 2", 2 * two) == 0.5
    assert share_of_two("unimax 2", 2 * one) == pytest.approx(two / one, abs=1 / 1024)


@pytest.mark.parametrize(("first", "count"), [(0, 4096), (0, 1024), (5000, 1024), (10**9 + 7, 1024)])
def test_every_stretch_of_every_source_has_the_promised_share_of_each_task(prepared, first, count):
    """Were one pattern dealt out over all rows, the rarer source, every fourth row, would meet the same tasks always.

    Within 3 rows of the promise, however few of the source's rows the stretch has.
    """
    rows = Rows(prepared, T, 0, None, tasks(RARE))
    promised = [RARE.get(name, 0.0) for name in TABLE]
    for source, found in shares_of(rows, first, count).items():
        of_source = count * rows.rates[source] / 1024
        np.testing.assert_allclose(found, promised, atol=3 / of_source)


def test_shares_of_the_tasks_change_at_the_promised_row(prepared):
    """From a quarter of a run of 400 rows on: rows 0 to 99 are causal, rows 100 to 399 masked."""
    changing = tasks(
        {"causal_lm": 1.0}, causal_lm={"later": ((0.25, 0.0, 1.0),)}, masked_lm={"later": ((0.25, 1.0, 1.0),)}
    )
    rows = Rows(prepared, T, 0, 400 * T, changing)
    assert [list(TABLE)[k] for k in rows.tasks_of(np.arange(98, 102))] == ["causal_lm"] * 2 + ["masked_lm"] * 2
    assert set(rows.tasks_of(np.arange(100)).tolist()) != set(rows.tasks_of(np.arange(100, 400)).tolist())
    batch = rows.batch(np.arange(98, 102))
    assert (batch.visible_BT.any(axis=1) == [False, False, True, True]).all()


def test_a_task_reads_its_own_sources_only_and_the_others_have_its_rows_elsewhere(prepared):
    rows = Rows(prepared, T, 0, None, tasks({"causal_lm": 0.5, "masked_lm": 0.5}, masked_lm={"sources": ("two",)}))
    found, masked = shares_of(rows, 0, 4096), list(TABLE).index("masked_lm")
    assert found["one"][masked] == 0
    assert found["one"][0] == 1
    assert found["two"][masked] == pytest.approx(0.5)


def test_rows_built_together_are_those_built_one_by_one_and_from_any_start(prepared):
    """Of all tasks; in another order, too."""
    rows = Rows(prepared, T, 0, 10_000 * T, tasks(RARE))
    row_R = np.arange(40, 72)
    together = rows.batch(row_R)
    assert set(np.unique(together.task_BT)) - {0} == {rows.builder.id_of(name) for name in RARE}
    one_by_one = [
        np.concatenate(arrays) for arrays in zip(*(rows.batch(row_R[r : r + 1]) for r in range(32)), strict=True)
    ]
    backwards = Rows(prepared, T, 0, 10_000 * T, tasks(RARE)).batch(row_R[::-1])
    later = rows.batch(np.arange(56, 90))
    for whole, alone, back, rest in zip(together, one_by_one, backwards, later, strict=True):
        np.testing.assert_array_equal(whole, alone)
        np.testing.assert_array_equal(whole, back[::-1])
        np.testing.assert_array_equal(whole[16:], rest[:16])
    assert not np.array_equal(together.tokens_BT[:16], together.tokens_BT[16:])


@pytest.mark.parametrize("name", RARE)
def test_another_seed_and_another_epoch_give_other_rows_and_the_same_seed_the_same(prepared, name):
    """Trap 13: text, and what is hidden, in row r of both epochs."""
    row_R, alone = np.arange(8), tasks({name: 1.0})
    first, again, other = (Rows(prepared, T, seed, None, alone) for seed in (0, 0, 1))
    assert equal(first.batch(row_R), again.batch(row_R))
    assert not np.array_equal(first.batch(row_R).tokens_BT, other.batch(row_R).tokens_BT)
    next_epoch = row_R + 1024 * first.plans[0].rows_per_epoch
    assert not np.array_equal(first.batch(row_R).tokens_BT, first.batch(next_epoch).tokens_BT)


def test_the_same_piece_is_masked_anew_in_every_epoch_and_with_every_seed(prepared):
    """Trap 13: a document that begins a row in several epochs and seeds hides other words each time."""
    found = {}
    for seed in range(3):
        rows = Rows(prepared, T, seed, None, tasks({"masked_lm": 1.0}))
        text = rows.text(np.arange(6 * sum(plan.rows_per_epoch for plan in rows.plans)))
        chosen_I = rows.builder.tasks["masked_lm"].chosen(text)
        for piece, (source, document, start) in enumerate(
            zip(text.source_P.tolist(), text.document_P.tolist(), text.start_P.tolist(), strict=True)
        ):
            place = slice(text.first_P[piece], text.first_P[piece] + text.length_P[piece])
            if text.length_P[piece] >= 60:
                found.setdefault((source, document, start, text.length_P[piece].item()), []).append(
                    chosen_I[place].tobytes()
                )
    often = [masks for masks in found.values() if len(masks) > 2]
    assert len(often) > 5
    assert sum(len(set(masks)) for masks in often) > 0.95 * sum(map(len, often))


def test_a_task_reads_where_it_finds_something_and_is_named_where_it_was_told_to_find_it(tmp_path):
    """Words of one token are never three in a row in `terse`."""
    prepared = write_prepared(tmp_path / "prepared", {"one": sentences(80), "terse": ["a"] * 400})
    shares = {"causal_lm": 0.5, "order": 0.5}
    assert Rows(prepared, T, 0, None, tasks(shares)).reads == {"causal_lm": ("one", "terse"), "order": ("one",)}
    only_terse = write_prepared(tmp_path / "terse", {"terse": ["a"] * 400})
    nothing = Rows(only_terse, T, 0, None, tasks(shares))
    assert nothing.reads == {"causal_lm": ("terse",), "order": ()}
    assert nothing.remarks == ["objectives.order: finds nothing in terse; other tasks have those rows"]
    for named, where in ((("terse",), "terse"), (("one", "terse"), "terse")):
        with pytest.raises(ValueError, match=rf"objectives.order: finds nothing to learn in \d+ rows of {where} "):
            Rows(prepared, T, 0, None, tasks(shares, order={"sources": named}))


def test_a_source_that_no_task_reads_and_a_source_that_is_unknown_are_named(prepared):
    with pytest.raises(ValueError, match=r"objectives: no task reads source 'two'; drop it, or name it in a task's"):
        Rows(prepared, T, 0, None, tasks({"causal_lm": 1.0}, causal_lm={"sources": ("one",)}))
    with pytest.raises(ValueError, match=r"objectives.causal_lm.sources: 'tow'; did you mean 'two'\?"):
        Rows(prepared, T, 0, None, tasks({"causal_lm": 1.0}, causal_lm={"sources": ("one", "tow")}))


def test_a_source_too_short_for_a_row_is_named(prepared):
    with pytest.raises(ValueError, match=r"source 'one': too little text for a row of T=99999: 99999 tokens needed"):
        Rows(prepared, 99_999, 0, None, TABLE)


@pytest.mark.parametrize("name", RARE)
def test_held_out_rows_are_the_same_in_every_run_and_built_in_any_way(prepared, name, monkeypatch):
    """Trap 32: no seed of a run comes in, and progress is that of the end; rows beyond the text are padding."""
    corpus = open_corpus(prepared, "validation")
    held_out = HeldOutRows(corpus, 0, Builder(corpus, tasks(RARE), T), name, T, 3)
    assert held_out.count == 3
    together, one_by_one = held_out.batch(np.arange(4)), [held_out.batch(np.array([row])) for row in range(4)]
    assert equal(together, [np.concatenate(arrays) for arrays in zip(*one_by_one, strict=True)])
    assert not together.segment_BT[3].any()
    assert not together.weights_BT[3].any()
    assert together.weights_BT[:3].any(axis=1).all()
    of_other_shares = HeldOutRows(corpus, 0, Builder(corpus, tasks({name: 1.0}), T), name, T, 3)
    assert equal(together, of_other_shares.batch(np.arange(4)))
    monkeypatch.setattr("data.rows.rows.VALIDATION_SEED", 7)
    moved = not equal(together, held_out.batch(np.arange(4)))
    assert moved == (name != "causal_lm")


def test_held_out_words_are_masked_at_the_rate_of_the_runs_end(prepared):
    """Trap 32: 15 %, not the 30 % of its start."""
    corpus = open_corpus(prepared, "validation")
    builder = Builder(corpus, tasks({"masked_lm": 1.0}, masked_lm={"unit": "token"}), T)
    batch = HeldOutRows(corpus, 0, builder, "masked_lm", T, 10**6).batch(np.arange(8))
    assert batch.weights_BT.sum() / (batch.segment_BT > 0).sum() == pytest.approx(0.15, abs=0.02)


def test_tasks_take_turns_in_rows_that_come(prepared):
    """Each task once in every five of them, and all of them later rows."""
    rows = Rows(prepared, T, 0, 10**7 * T, tasks(RARE))
    row_R = rows.taking_turns(1000, 20)
    assert (row_R >= 1000).all()
    assert [len(set(rows.tasks_of(five))) for five in row_R.reshape(4, 5)] == [5] * 4


def test_a_source_that_is_read_often_is_told_of(tmp_path):
    """With its tokens and how often, from just above 4 times; not at 4, nor of an endless run."""
    prepared = write_prepared(tmp_path / "prepared", {"one": sentences(800), "two": sentences(60, seed=1)})
    tokens = len(TokenStore(prepared / "two" / "train").tokens)
    assert Rows(prepared, T, 0, 2 * 4 * tokens, TABLE).remarks == []
    assert Rows(prepared, T, 0, None, TABLE).remarks == []
    (remark,) = Rows(prepared, T, 0, 2 * 5 * tokens, TABLE).remarks
    assert f": two ({tokens:,} tokens) 5.0 times; add text" in remark
