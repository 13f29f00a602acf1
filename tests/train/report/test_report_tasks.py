import html
import re

import numpy as np
import pytest

from tests.train.report.test_report import (
    CHINESE,
    HOSTILE,
    Tags,
    cells,
    full_run,
    make_run,
    missing,
    read,
    train_record,
    validation_record,
)
from train.report.report_tasks import commonest, conflicts, held_out, last_task_scores, scores, training_curves

TITLES = {
    "tasks": "What it is trained on",
    "scores": "What it learned, task by task",
    "conflict": "Do its tasks pull together?",
    "views": "Held-out text read both ways",
}


def of_tasks(step, coefficient=0.2, **tasks):
    return train_record(step) | {"tasks": tasks, "coefficients": dict.fromkeys(tasks, coefficient)}


def task_record(
    step, task, *, accuracy=0.5, guess=0.25, confusion=None, classes=None, source="plays", kind="validation_task"
):
    return {
        "kind": kind, "step": step, "task": task, "loss": 2.5, "accuracy": accuracy, "targets": 4321,
        "baseline": f"guesser of {source}", "baseline_accuracy": guess,
        "by_source": {source: [0.75, 123], "other": [0.5, 7]},
        "confusion": confusion, "classes": classes,
    }  # fmt: skip


def conflict(step, cosine, terms=("causal_lm", "masked_lm")):
    return {
        "kind": "conflict",
        "step": step,
        "terms": list(terms),
        "cosines": [[1.0, cosine], [cosine, 1.0]],
        "norms": [1.0, 1.0],
    }


def run_of_tasks(folder, words="plain"):
    """A run with every section of this module, with these words wherever a person may choose them."""
    term = f"classify/{words}"
    metrics = [of_tasks(step, causal_lm=4.0, **{term: 1.0}) for step in (10, 20)]
    metrics += [
        task_record(20, term, confusion=[[9, 1], [2, 8]], classes=[f"{words}a", f"{words}b"], source=words),
        validation_record(20, words),
    ]
    metrics += [conflict(step, -0.2, ("causal_lm", term)) for step in (10, 20)]
    make_run(folder, metrics=metrics, views={words: {"causal": 3.5, "bidirectional": 2.25, "tokens": 512}})
    return folder


@pytest.fixture(autouse=True)
def a_model_of_class_heads_alone(monkeypatch):
    monkeypatch.setattr("train.report.report._headline", lambda *_: "")  # it wants a whole model.json


def test_each_section_is_shown_where_its_file_or_records_are_and_left_out_elsewhere(tmp_path, monkeypatch):
    for name in ("report.draw", "report_tasks.draw", "report_tasks.draw_grid"):
        monkeypatch.setattr(
            f"train.report.{name}", lambda *_: "<svg></svg>"
        )  # drawing is slow, and not the matter here
    run = run_of_tasks(tmp_path / "run")
    assert missing(TITLES, read(run)) == set()
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl").write_text("".join(line for line in lines if '"kind": "conflict"' not in line))
    assert missing(TITLES, read(run)) == {"conflict"}
    (run / "metrics.jsonl").unlink()
    assert missing(TITLES, read(run)) == {"tasks", "scores", "conflict"}
    (run / "views.json").unlink()
    assert missing(TITLES, read(run)) == set(TITLES)


def test_an_old_run_and_one_of_next_words_alone_have_none_of_it(tmp_path):
    assert missing(TITLES, read(full_run(tmp_path / "old"))) == set(TITLES)
    assert missing(TITLES, read(make_run(tmp_path / "new", metrics=[of_tasks(10, causal_lm=4.0)]))) == set(TITLES)


def test_names_of_labels_and_classes_never_become_markup(tmp_path):
    plain, hostile = read(run_of_tasks(tmp_path / "a")), read(run_of_tasks(tmp_path / "b", HOSTILE))
    assert "<script" not in hostile
    assert {tag for tag, _ in Tags(hostile).found} == {tag for tag, _ in Tags(plain).found}
    assert hostile.count(html.escape(HOSTILE)) >= 10


def test_figures_of_tasks_follow_light_and_dark(tmp_path):
    """Even the cells of a matrix, whose colour depends on a number."""
    figures = re.findall(r"<svg.*?</svg>", read(run_of_tasks(tmp_path / "run")), flags=re.DOTALL)
    assert sum("opacity: 0.495" in figure for figure in figures) == 1  # the 90 percent of the confusion matrix
    assert all("var(--" in figure and not re.search(r"#[0-9a-f]{6}\b", figure) for figure in figures)


def test_chinese_classes_stay_text(tmp_path):
    name = CHINESE.split("\n")[0]
    assert re.search(rf"<text[^>]*>{name}a \(10\)</text>", read(run_of_tasks(tmp_path / "run", name)))


def test_a_task_has_its_loss_and_its_answers_beside_the_baselines():
    train = [of_tasks(step, causal_lm=4.0, masked_lm=3.0) for step in (10, 20)]
    page = training_curves(train, [task_record(20, "masked_lm")])
    assert re.findall(r"<h3>(.*?)</h3>", page) == ["causal_lm", "masked_lm"]
    causal, masked = page.split("<h3>")[1:]
    assert [causal.count(">nats per target<"), causal.count(">right answers<")] == [1, 0]
    assert [masked.count(">nats per target<"), masked.count(">right answers<")] == [1, 1]
    assert "stroke-dasharray" in masked
    assert "The baseline: guesser of plays." in masked


def test_weights_are_drawn_where_they_change():
    still, moving = ([of_tasks(s, c, causal_lm=4.0, order=3.0) for s, c in ((10, 0.5), (20, c))] for c in (0.5, 0.6))
    assert "Weights in the loss" not in training_curves(still, [])
    assert "Weights in the loss" in training_curves(moving, [])


def test_the_numbers_of_the_table_of_tasks_are_those_of_the_records():
    train = [of_tasks(20, 0.125, order=3.0)]
    page = scores(train, [task_record(20, "order", accuracy=0.512, guess=0.25)])
    of_all, by_source = cells(page, "order")
    assert of_all == [["51.2%"], ["25.0%", "guesser", "of", "plays"], ["4,321"], ["2.500"], ["0.125"]]
    assert by_source == [["75.0%", "of", "123"], ["50.0%", "of", "7"]]


def test_a_baseline_is_beaten_only_by_more_right_answers():
    """Shares of the same number of right answers differ in their last digits."""
    metrics = [task_record(9, "order", accuracy=0.25 + 1e-9), task_record(9, "position", accuracy=0.2)]
    assert "the model does not beat a cheap baseline at order and position." in scores([], metrics)
    page = scores([], [*metrics, task_record(9, "masked_lm", accuracy=0.2503)])
    assert "beats a cheap baseline at masked_lm, and does not beat it at order and position." in page


def test_the_score_after_the_last_step_counts_and_of_a_repeated_step_the_later():
    old, new = (task_record(9, "order", accuracy=share) for share in (0.1, 0.2))
    final = task_record(9, "order", accuracy=0.3, kind="final_task")
    assert held_out([final, old, new])["order"] == {9: new}
    assert last_task_scores([old, new])["order"] == new
    assert last_task_scores([final, old, new])["order"] == final
    assert last_task_scores([new, final | {"kind": "final_task_ema"}])["order"] == new


def test_confusions_are_percent_of_their_row_under_the_names_of_the_classes():
    """A class that never is right has a row without numbers."""
    matrix = [[30, 10, 0], [1, 4, 5], [0, 0, 0]]
    classes = ["in order", "swapped", "random"]
    page = scores([], [task_record(9, "continuity", confusion=matrix, classes=classes)])
    texts = re.findall(r"<text[^>]*>(.*?)</text>", page)
    assert texts[:8] == [
        "in order",
        "swapped",
        "random",
        "what the model says",
        "in order (40)",
        "swapped (10)",
        "random (0)",
        "what is right",
    ]
    assert texts[8:] == ["75", "25", "0", "10", "40", "50"]


def test_the_rarer_of_many_classes_stand_together():
    confusion = np.eye(14, dtype=int) * np.arange(100, 114)
    confusion[0, 13] = 1  # 101 in all, so that 0, 1 and 2 are the rarest
    confusion[3, 3] = 120
    folded, names = commonest(confusion, [f"c{k}" for k in range(14)])
    assert names == [*(f"c{k}" for k in range(3, 14)), "3 others"]
    assert folded.sum() == confusion.sum()
    assert folded[0, 0] == 120
    assert folded[11].tolist() == [0] * 10 + [1, 303]
    np.testing.assert_array_equal(commonest(confusion[:12, :12], names)[0], confusion[:12, :12])


def test_conflicts_show_the_newest_measurement_and_all_from_two_on():
    once = conflicts([conflict(10, -0.25)])
    assert "At step 10 causal_lm and masked_lm are the most opposed (cosine -0.25)." in once
    assert once.count("<svg") == 1
    twice = conflicts([conflict(20, 0.5), conflict(10, -0.25)])
    assert "At step 20 no two tasks pull against each other." in twice
    assert twice.count("<svg") == 2
    assert ">0.50</text>" in twice


def test_a_pair_that_is_not_known_is_no_number():
    unknown = conflict(10, None)
    assert conflicts([unknown]) == ""
    terms, cosines = ["a", "b", "c"], [[1, None, 0.5], [None, 1, -0.001], [0.5, -0.001, 1]]
    page = conflicts([unknown | {"terms": terms, "cosines": cosines}])
    assert re.findall(r"<text[^>]*>(-?\d.*?)</text>", page) == ["0.50", "0.00", "0.50", "0.00"]


def test_the_views_are_those_of_the_file(tmp_path):
    (row,) = cells(
        read(make_run(tmp_path / "run", views={"plays": {"causal": 3.5, "bidirectional": 2.25, "tokens": 1512}})),
        "plays",
    )
    assert row == [["3.500"], ["2.250"], ["1,512"]]


def test_the_loss_of_a_run_with_several_tasks_is_that_of_next_words(tmp_path):
    """Where it has none, the sum of all."""
    for name, told, numbers in (("causal_lm", "next-word prediction", (3, 4)), ("order", "weighted sum", (80, 90))):
        tasks = {step: {name: loss, "masked_lm": 2.0} for step, loss in ((10, 4.0), (20, 3.0))}
        metrics = [of_tasks(step, **tasks[step]) | {"loss": 100.0 - step} for step in tasks]
        page = read(make_run(tmp_path / name, metrics=metrics))
        loss = page[page.index("<h3>Loss") :]
        loss = loss[: loss.index("</figure>")]
        assert told in loss
        assert {f"{number}" for number in numbers} <= set(re.findall(r"<text[^>]*>(.*?)</text>", loss))


def test_every_drawing_has_a_label_of_its_own_for_those_who_hear_the_page(tmp_path):
    labels = [dict(attributes)["aria-label"] for tag, attributes in Tags(read(run_of_tasks(tmp_path / "run"))).found
              if tag == "svg"]  # fmt: skip
    assert len(set(labels)) == len(labels) > 4
    assert "classify/plain: nats per target" in labels
    assert "classify/plain: right answers" in labels
    assert "Which tasks pull together" in labels
