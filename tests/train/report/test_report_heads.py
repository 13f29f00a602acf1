"""The report's section about a head, of every kind, and of texts that would be markup."""

import pytest

from train.report.report_heads import figure_rows, heads

FIGURES = {"baseline": {"accuracy": 0.5}, "before": {"accuracy": 0.25}, "after": {"accuracy": 0.875}}
BASE = {
    "head": "<b>", "kind": "classes", "classes": ["<i>", "b"], "items": 8, "step": 20, "baseline": "always says <u>",
    "judged_by": "accuracy", "figures": FIGURES, "interval": {"accuracy": [0.6, 1.0]},
    "errors": [{"text": "<script>" * 90, "second": None, "told": "b", "is": "<i>", "by": 0.93}],
}  # fmt: skip
BINS = [{"count": 3, "probability": 0.65, "share": 2 / 3}, {"count": 5, "probability": 0.97, "share": 0.8}]
KINDS = {
    "classes": {"confusion": [[3, 1], [0, 4]], "bins": BINS},
    "labels": {"counts": [[3, 4, 5], [0, 0, 2]], "bins": BINS},
    "values": {"points": [[1.0, 1.5], [2.0, 1.75], [4.0, 2.0]]},
}
DRAWN = {"classes": "What is taken for what", "labels": "rightly", "values": "What is so, and what it tells"}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_its_drawings_and_nothing_of_it_is_markup(kind):
    page = heads({**BASE, "kind": kind, **KINDS[kind]})
    assert DRAWN[kind] in page
    assert "Where it is most wrong" in page
    assert "<script>" not in page
    assert "always says &lt;u&gt;" in page
    assert ("How sure it is" in page) == (kind != "values")


def test_figures_stand_beside_the_baseline_with_their_interval():
    [row] = figure_rows(BASE)
    assert row == ("right answers (higher is better)", "50.0%", "25.0%", "87.5%", "60.0% to 100.0%")


@pytest.mark.parametrize(
    ("by", "told"), [("accuracy", "the best by right answers"), ("loss", "the best by loss"), (None, "the newest")]
)
def test_why_the_checkpoint_is_the_one_that_is_loaded_is_told(by, told):
    page = heads({**BASE, **KINDS["classes"], "judged_by": by})
    assert f"{told}. The baseline" in page
    assert ("the best by" in page) == (by is not None)


def test_a_run_without_a_head_has_no_section():
    assert heads({}) == ""
