"""train.report.report_inside: what a run's looks inside become on its page."""

from tests.train.report.test_report import Tags
from train.report.report_inside import inside


def record(step, previous=0.1, earlier=()):
    return {
        "kind": "inside", "step": step, "entropy": [[1.0, 2.0], [0.5, 0.25]],
        "roles": {"previous token": [[previous, 0.0], [0.2, 0.1]], "induction": [[0.0, 0.0], [0.05, previous]]},
        "layers": [[1.0, 0.75], [0.75, 1.0]], "earlier": {str(then): [0.5, 0.625] for then in earlier},
    }  # fmt: skip


def test_a_run_that_was_not_looked_into_has_no_such_section():
    assert inside([{"kind": "train", "step": 3}]) == ""


def test_every_figure_has_its_numbers_and_heads_with_a_role_are_named():
    """Of a step that was looked at twice, by a restart, the last; figures over time need two looks."""
    once = inside([record(10)])
    assert once.count("<svg") == 3
    assert "as layer.head: none." in once
    page = inside([record(10), record(20, 0.2, [10]), record(20, 0.9, [10])])
    assert page.count("<svg") == 4
    assert "previous token: 0.0 (90%); induction: 1.1 (90%)" in page
    assert "How alike layers are, at step 20" in page
    assert ">0.75</text>" in page
    assert {tag for tag, _ in Tags(page).found} & {"script", "img", "link"} == set()
