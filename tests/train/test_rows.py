"""Two clocks: schedules go by steps done, amounts by rows read, whatever the batch size was on the way."""

import numpy as np
import pytest

from data.tasks.causal_lm import CausalLM
from data.tasks.masked_lm import MaskedLM
from tests.tiny_text import stories, write_prepared
from train.rows import RunRows

T, STEPS = 64, 100
TASKS = {  # half way, masked words take over from next words
    "causal_lm": CausalLM(rows=1.0, later=((0.5, 0.0, 0.0),)),
    "masked_lm": MaskedLM(rows=0.0, later=((0.5, 1.0, 1.0),)),
}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    return write_prepared(tmp_path_factory.mktemp("rows") / "prepared", {"p": stories(60, 20)})


def rows_of(prepared, rows_a_step: int) -> RunRows:
    return RunRows(prepared, T, 0, STEPS * rows_a_step * T, TASKS)


@pytest.mark.parametrize("now", [4, 8, 16])
def test_after_another_batch_size_a_row_has_the_progress_of_its_step(prepared, now):
    """Forty steps of 8 rows, then others: row 320 is of step 40 of 100, and tasks change with step 50."""
    step, row = 40, 40 * 8
    rows = rows_of(prepared, now).from_step(step, row, now)
    assert rows.progress(np.array([row, row + 10 * now, row + 60 * now])).tolist() == [0.4, 0.5, 1.0]
    before, after = np.array([row, row + 10 * now - 1]), np.array([row + 10 * now, row + 20 * now])
    assert rows.tasks_of(before).tolist() == [0, 0]
    assert rows.tasks_of(after).tolist() == [1, 1]


def test_with_the_same_batch_size_every_row_is_the_row_it_was(prepared):
    whole = rows_of(prepared, 8)
    row_R = np.arange(320, 480)
    parts = whole.from_step(40, 320, 8)
    for one, other in zip(whole.batch(row_R), parts.batch(row_R), strict=True):
        np.testing.assert_array_equal(one, other)
    moved = rows_of(prepared, 16).from_step(40, 320, 16)
    assert not np.array_equal(whole.progress(row_R), moved.progress(row_R))
    assert whole.progress(row_R).tolist() == (row_R / 800).tolist()
