"""The table of objectives: what is refused, how rows follow repetition, and what a step is told of it all."""

import ast
import dataclasses
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from data.rows.rows import Rows
from data.tasks.causal_lm import CausalLM
from data.tasks.classify import Classify
from data.tasks.masked_lm import MaskedLM
from data.tasks.order import Order
from data.tasks.position import Position
from data.tasks.schedule import Schedule
from data.tasks.task import Task
from tests.tiny_text import sentences, write_prepared
from train.losses.terms import lambdas
from train.objectives import Objectives, causal_only, causal_rows, loss_spec

MIXED = {"causal_lm": CausalLM(rows=0.75), "masked_lm": MaskedLM(rows=0.25)}


def test_next_words_alone_are_the_default():
    assert Objectives().only_causal
    assert not Objectives(**MIXED).only_causal
    assert [Objectives(**tasks).all_causal for tasks in ({}, MIXED)] == [True, False]
    assert next(iter(Objectives().tasks)) == "causal_lm"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"masked_lm": MaskedLM(rows=0.25)},
            r"at the start the rows of the tasks sum to 1.25, not 1: .*'masked_lm': 0.25",
        ),
        (
            {**MIXED, "masked_lm": MaskedLM(rows=0.25, later=((0.5, 0.5, 1.0),))},
            r"from 0.5 of the run on the rows of the tasks sum to 1.25, not 1",
        ),
        (
            {"causal_lm": CausalLM(rows=0.75, weight=0.0), "masked_lm": MaskedLM(rows=0.25, weight=0.0)},
            r"all weights are 0 at 0 of the run: .*nothing would train",
        ),
        ({"causal_lm": CausalLM(later=((0.9, 1.0, 0.0),))}, r"all weights are 0 at 0.9 of the run"),
        ({"combine": "fano"}, r"objectives.combine='fano'; did you mean 'famo'\?"),
        ({"conflicts": 0}, r"objectives.conflicts=0: must be at least 1 step, or None"),
    ],
)
def test_shares_and_weights_that_train_nothing_or_do_not_sum_are_refused(changes, said):
    with pytest.raises(ValueError, match=said):
        Objectives(**changes)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"rows": -0.5}, r"rows: \[-0.5\] must be 0 or more"),
        ({"weight": -1.0}, r"weight: \[-1.0\] must be 0 or more"),
        ({"later": ((0.5, -0.1, 1.0),)}, r"rows: \[1.0, -0.1\] must be 0 or more"),
        ({"later": ((0.5, 1.0, float("nan")),)}, r"weight: \[1.0, nan\] must be 0 or more"),
        ({"later": ((0.5, 1.0, 1.0), (0.5, 1.0, 1.0))}, r"shares of the run must rise and lie above 0 and up to 1"),
    ],
)
def test_negative_shares_and_weights_are_refused_by_the_task(settings, said):
    with pytest.raises(ValueError, match=said):
        CausalLM(**settings)


def test_a_line_of_text_is_a_tasks_schedule():
    """What is left out is the default; a task without a number has the rows that the others leave."""
    lines = ("causal_lm", "masked_lm=0.125", "order=0.125:0.5", "order=0.125:0@1", "masked-lm=0.125@0.5")
    objectives = Objectives(rows=lines, sources=("order=one", "order=two"))
    assert objectives.causal_lm.rows == 0.75
    assert objectives.masked_lm.schedule == Schedule(rows=0.125, later=((0.5, 0.125, 0.125),))
    assert objectives.order.schedule == Schedule(
        rows=0.125, weight=0.5, later=((1.0, 0.125, 0.0),), sources=("one", "two")
    )
    assert Objectives(rows=("causal_lm",)) == Objectives()


def test_a_task_without_a_number_has_what_the_others_leave_at_all_times():
    later = Objectives(rows=("causal_lm", "masked_lm=0.125", "order=0.25@0.5", "order=0@0.75"))
    assert [later.causal_lm.rows_at(share) for share in (0, 0.5, 0.75)] == [0.875, 0.625, 0.875]
    assert later.causal_lm.weights == [0.875, 0.625, 0.875]
    weighted = Objectives(rows=("causal_lm", "order=0.25@0.5", "causal_lm=0.75:2@0.5"))
    assert weighted.causal_lm.schedule.later == ((0.5, 0.75, 2.0),)
    assert not Objectives(rows=("causal_lm", "order=0.25:0.1", "order=0.25:0@1")).causal_lm.schedule.later


def test_the_settings_of_a_task_may_hold_its_schedule():
    """As recipes were written; what the table says of it beside stays."""
    of_old = Objectives(
        causal_lm=CausalLM(rows=0.9),
        masked_lm=MaskedLM(rows=0.1, weight=0.3, rate=0.2, later=((0.5, 0.1, 0.0),), sources=("one",)),
    )
    of_today = Objectives(
        rows=("causal_lm=0.9", "masked_lm=0.1:0.3", "masked_lm=0.1:0@0.5"),
        sources=("masked_lm=one",),
        masked_lm=MaskedLM(rate=0.2),
    )
    assert of_old == of_today
    moved = dataclasses.replace(of_old, masked_lm=MaskedLM(weight=0.2))
    assert moved.masked_lm.schedule == Schedule(rows=0.1, weight=0.2, later=((0.5, 0.1, 0.0),), sources=("one",))


def test_numbers_of_a_schedule_come_back_exactly():
    task = MaskedLM(rows=0.1 + 0.2, weight=1 / 3, later=((1 - 0.4, 0.1 * 3, 1e-17),))
    again = Objectives(rows=(f"causal_lm={1 - task.rows!r}", *task.schedule.lines("masked_lm")))
    assert again.masked_lm.schedule == task.schedule


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"rows": ("masked_ml=1",)}, "objectives.rows: no task 'masked_ml'; did you mean 'masked_lm'?"),
        ({"rows": ("masked_lm=much",)}, "objectives.rows: 'masked_lm=much'; write TASK=ROWS"),
        ({"rows": ("masked_lm=0.5@0.5:1",)}, "objectives.rows: 'masked_lm=0.5@0.5:1'; write TASK=ROWS"),
        ({"rows": ("causal_lm=1", "causal_lm=1")}, "objectives.rows: causal_lm is there twice"),
        ({"rows": ("causal_lm", "masked_lm")}, "causal_lm and masked_lm have no number; one may take"),
        ({"rows": ("causal_lm", "masked_lm=1.5")}, "the tasks sum to 1.5, and causal_lm takes what they leave"),
        ({"rows": ("causal_lm=1", "causal_lm=1@2")}, "objectives.rows: causal_lm: later=.* up to 1"),
        ({"rows": ("causal_lm", "order=0.0005")}, "order: rows=0.0005: rows are dealt out in 1024ths; give 0"),
        ({"rows": ("causal_lm", "order=0.1@1")}, "objectives.rows: order: has no rows before the end of the run"),
        ({"rows": ("causal_lm", "order=0:0.1@0.5")}, "objectives.rows: order: has no rows before the end of the run"),
        ({"sources": ("causal_lm",)}, "objectives.sources: 'causal_lm'; write TASK=SOURCE"),
        ({"sources": ("causl_lm=one",)}, "objectives.sources: no task 'causl_lm'; did you mean 'causal_lm'?"),
        ({"rare": ("oder",)}, "objectives.rare: no task 'oder'; did you mean 'order'?"),
    ],
    ids=str,
)  # fmt: skip
def test_a_line_that_cannot_be_is_named(settings, said):
    with pytest.raises(ValueError, match=said.replace("?", r"\?")):
        Objectives(**settings)


def test_a_task_of_few_rows_a_step_is_divided_by_what_is_to_be_expected():
    """Auxiliary ones, below two rows a step; a recipe may say otherwise, and need not say what is so anyhow."""
    some = Objectives(rows=("causal_lm", "masked_lm=0.04", "order=0.1"))
    assert [some.order.rare(rows) for rows in (8, 19, 20, 64)] == [True, True, False, False]
    assert not some.masked_lm.rare(8)
    assert dataclasses.replace(some, rare=()).order.rare(8) is False
    assert dataclasses.replace(some, rare=("masked_lm",)).masked_lm.rare(64) is True
    assert dataclasses.replace(some, rare=("order",)).settled(8) == some
    assert dataclasses.replace(some, rare=("order",)).settled(64) != some


@pytest.mark.parametrize(
    ("epochs", "causal"),
    [(1, 0.75), (16, 0.75), (24, (0.75 + 0.5) / 2), (32, 0.5), (240, 16 / 240), (1000, 0.06)],
)
def test_the_causal_share_of_text_read_often_is_that_of_sixteen_epochs(epochs, causal):
    assert causal_rows(0.75, 0.25, epochs) == pytest.approx(causal)


def test_a_causal_share_below_that_of_sixteen_epochs_is_not_raised():
    assert causal_rows(0.2, 0.8, 40) == 0.2
    assert causal_rows(0.2, 0.6, 160) == pytest.approx(0.08)


def test_repetition_moves_causal_rows_to_masked_ones_and_no_weight():
    objectives = Objectives(**(MIXED | {"causal_lm": CausalLM(rows=0.65), "order": Order(rows=0.1)}))
    often = objectives.for_epochs(32)
    assert often.causal_lm.rows == pytest.approx(0.45)
    assert often.masked_lm.rows == pytest.approx(0.45)
    assert (often.causal_lm.weights, often.masked_lm.weights) == ([0.65], [0.25])
    assert often.order == objectives.order
    assert objectives.for_epochs(16) == objectives


@pytest.mark.parametrize(
    "objectives",
    [
        Objectives(**MIXED, by_repetition=False),
        Objectives(),
        Objectives(**(MIXED | {"causal_lm": CausalLM(rows=0.75, later=((0.9, 0.75, 1.0),))})),
    ],
    ids=["switched off", "no masked rows", "rows laid out by hand"],
)
def test_repetition_changes_nothing_where_it_was_not_asked_for(objectives):
    assert objectives.for_epochs(100) == objectives


def test_rows_change_at_once_and_weights_evenly():
    task = CausalLM(rows=0.5, weight=1.0, later=((0.5, 0.3, 1.0), (1.0, 0.1, 0.0)))
    assert [task.rows_at(share) for share in (0, 0.49, 0.5, 0.99, 1)] == [0.5, 0.5, 0.3, 0.3, 0.1]
    assert [task.weight_at(share) for share in (0, 0.5, 0.75, 1)] == [1, 1, 0.5, 0]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A source of three quarters of the rows and one of a quarter."""
    sources = {"one": sentences(80), "two": sentences(60, seed=1)}
    return write_prepared(tmp_path_factory.mktemp("objectives"), sources, {"one": 768, "two": 256})


OBJECTIVES = Objectives(
    causal_lm=CausalLM(rows=0.8, later=((0.8, 0.9, 1.0),)),
    position=Position(rows=0.1, weight=0.05, later=((0.8, 0.1, 0.05), (1.0, 0.1, 0.0))),
    order=Order(rows=0.1, weight=0.5, sources=("two",), later=((0.8, 0.0, 0.1),)),
)


@pytest.fixture(scope="module")
def made(prepared):
    rows = Rows(prepared, 64, 0, None, OBJECTIVES.tasks)
    return rows, loss_spec(rows, 32, "static")


def test_a_step_is_told_of_each_task_that_has_rows_at_any_time(made):
    """By the id that its rows have; of the position task's own head."""
    rows, found = made
    assert [term.name for term in found.terms] == ["causal_lm", "position", "order"]
    assert [term.task for term in found.terms] == [
        rows.builder.id_of(name) for name in ("causal_lm", "position", "order")
    ]
    assert [term.head for term in found.terms] == [None, 0, None]
    assert [head.name for head in found.heads] == ["position"]
    assert len(found.heads[0].classes) == 32
    assert {term.loss for term in found.terms} == {"tokens"}
    assert (found.phases, found.targets, found.combine) == ((0.0, 0.8, 1.0), 0, "static")


def test_rare_terms_know_how_many_targets_a_step_has_on_average_in_every_phase(made):
    """Trap 40: the promise, within 10 % of what 4,096 rows hold. `order` reads one source in four, then none."""
    rows, found = made
    batch = rows.batch(np.arange(4096))
    causal, position, order = found.terms
    assert causal.expected is None
    for term in (position, order):
        per_step = batch.weights_BT[batch.task_BT == term.task].sum() * 32 / 4096
        assert term.expected[0] == pytest.approx(per_step, rel=0.1)
    assert order.expected[1:] == (0.0, 0.0)
    assert position.expected[1] == pytest.approx(position.expected[2])
    assert position.expected[1] > 0


def test_the_weights_of_the_terms_follow_the_run(made):
    """As rows where none is given; evenly between the shares of `later`."""
    _, found = made
    at = {share: np.asarray(lambdas(found, jnp.float32(share))).tolist() for share in (0.0, 0.4, 0.8, 0.9, 1.0)}
    assert at[0.0] == pytest.approx([0.8, 0.05, 0.5])
    assert at[0.4] == pytest.approx([0.9, 0.05, 0.3])
    assert at[0.8] == pytest.approx([1.0, 0.05, 0.1])
    assert at[0.9] == pytest.approx([1.0, 0.025, 0.1])
    assert at[1.0] == pytest.approx([1.0, 0.0, 0.1])


def test_what_is_compiled_without_a_text_is_what_the_default_objectives_make_of_one(prepared):
    objectives = Objectives()
    assert loss_spec(Rows(prepared, 64, 0, None, objectives.tasks), 32, "static") == causal_only()


@pytest.mark.parametrize(
    ("rows", "sparse"),
    [
        (("masked_lm",), [True]),
        (("causal_lm=0.3", "masked_lm=0.7"), [True, True]),
        (("causal_lm=0.9", "masked_lm=0.1"), [False, False]),
        (("causal_lm=0.3", "masked_lm=0.7", "causal_lm=0.9@0.5", "masked_lm=0.1@0.5"), [False, False]),
        (("masked_lm=0.9", "position=0.1"), [True, False]),
    ],
)
def test_positions_without_a_target_are_left_out_where_there_are_many_in_every_phase(prepared, rows, sparse):
    """Of all that the head of the tokens predicts: what heads of their own predict is not its affair."""
    found = loss_spec(Rows(prepared, 64, 0, None, Objectives(rows=rows).tasks), 32, "static")
    assert [term.sparse for term in found.terms] == sparse


def test_a_tasks_settings_are_its_own(made):
    """The table holds tasks and nothing else under their names."""
    others = {"rows", "sources", "rare", "combine", "by_repetition", "conflicts"}
    names = {field.name for field in dataclasses.fields(Objectives)} - others
    assert set(Objectives().tasks) == names


def test_a_task_with_heads_for_segments_must_say_how_they_learn(prepared):
    class Silent(Classify):
        loss = Task.loss

    rows = Rows(prepared, 64, 0, None, {"silent": Silent(rows=1.0, labels=("source",), shortest=4)})
    with pytest.raises(ValueError, match=r"objectives.silent: Silent has output heads for segments, and no loss"):
        loss_spec(rows, 32, "static")


def compared_names(source: str) -> list[str]:
    """The names of tasks that a program compares with something: by operators, in sets, as a beginning or a case."""
    found = []
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Compare():
                compared = [node.left, *node.comparators]
            case ast.BinOp(op=ast.BitAnd() | ast.BitOr() | ast.Sub()):
                compared = [node.left, node.right]
            case ast.AugAssign():
                compared = [node.value]
            case ast.Call(func=ast.Attribute(attr="startswith" | "endswith" | "removeprefix" | "issubset" | "count")):
                compared = node.args
            case ast.MatchValue():
                compared = [node.value]
            case _:
                continue
        inside = [part for one in compared for part in (one.elts if hasattr(one, "elts") else [one])]
        found += [part.value for part in inside if isinstance(part, ast.Constant) and part.value in Objectives().tasks]
    return found


def test_no_program_asks_for_a_task_by_its_name():
    """What a task is for are properties of its class, so that one that is added is treated as it says."""
    root = Path(__file__).parents[2]
    files = [path for folder in ("train", "data", "gptjax") for path in sorted((root / folder).rglob("*.py"))]
    asked = {str(path.relative_to(root)): compared_names(path.read_text(encoding="utf-8")) for path in files}
    assert {path: names for path, names in asked.items() if names} == {}
    assert compared_names("a == 'order' or b in {'causal_lm'} or c.startswith('masked_lm')") != []
