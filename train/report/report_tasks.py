"""The sections of `report.html` about a run's objectives: curves, scores, mistakes, conflicts; each "" where unknown.

What is told of a term is decided by its kind of loss. `records` are those of metrics.jsonl, of old runs too.
Axes: C classes  J terms of the loss.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes

from data.tasks.task import Task
from train.losses.loss import Loss, Matrix, Measure
from train.losses.table import LOSSES, loss_of_record
from train.objectives import Objectives
from train.report.figures import (
    COLOURS,
    NARROW,
    SERIES,
    WIDE,
    Look,
    column,
    draw,
    draw_grid,
    look,
    looks,
    paint_curve,
    paint_lines,
    short,
)
from train.report.page import escape, figure, listed, swatches, table, two

MOST_CLASSES = 12  # that are told apart in a picture
MOST_PAIRS = 8  # lines in the chart of conflicts

# Reading


def of_term(train: Sequence[Mapping], name: str, term: str) -> list[dict]:
    """(step, value) records of one term: its loss where `name` is tasks, its weight where it is coefficients."""
    return [{"step": record["step"], "value": record[name][term]} for record in train if term in record.get(name, {})]


def terms_of(train: Sequence[Mapping]) -> list[str]:
    return list(dict.fromkeys(term for record in train for term in record.get("tasks", {})))


def held_out(records: Sequence[Mapping], kind: str = "validation_task") -> dict[str, dict[int, Mapping]]:
    """Term -> step -> record, by rising step; of a step written twice, by a restart, the later record wins."""
    found: dict[str, dict[int, Mapping]] = {}
    for record in sorted((record for record in records if record["kind"] == kind), key=lambda record: record["step"]):
        found.setdefault(record["task"], {})[record["step"]] = record
    return found


def last_task_scores(records: Sequence[Mapping]) -> dict[str, Mapping]:
    """Term -> the record over most held-out text: the one made after the last step, before that the newest."""
    kinds = ("validation_task", "final_task")
    return {term: list(found.values())[-1] for kind in kinds for term, found in held_out(records, kind).items()}


def task_of(term: str) -> Task | None:
    """The task that a term is of, with its default settings; None of one that is no more."""
    return Objectives().tasks.get(term.split("/")[0])


def models_text(term: str) -> bool:
    """Whether its loss is that of the text itself, which is reported source by source."""
    task = task_of(term)
    return task is not None and task.models_text


def about(term: str) -> str:
    """What a task does, as its class says; "" of one that is no more."""
    task = task_of(term)
    return "" if task is None else (type(task).__doc__ or "").splitlines()[0]


def loss_of(record: Mapping | None) -> Loss:
    """The kind of loss that a record of held-out text is of; where there is none, that of most tasks."""
    return (None if record is None else loss_of_record(record)) or LOSSES[Task.loss]


# Sections


def training_curves(train: Sequence[Mapping], records: Sequence[Mapping]) -> str:
    """For each term its loss, and its measure beside a cheap baseline's. "" where next words are all there is."""
    terms, held = terms_of(train), held_out(records)
    if all(map(models_text, {*terms, *held})):
        return ""
    note = (
        "<p>Every task has a loss of its own, which falls as the task is learned; the share of right answers, on text "
        "that was not trained on, tells what that is worth. The dashed line is a cheap baseline's: a task is learned "
        "as far as the model does better.</p>"
    )
    legend = swatches({"training": look(0), "held-out text": look(1), "cheap baseline": Look(COLOURS["quiet"], "--")})
    figures = "".join(
        _curves_of(term, of_term(train, "tasks", term), list(held.get(term, {}).values()))
        for term in dict.fromkeys([*terms, *held])
    )
    return f'{note}{legend}<div class="grid thirds">{figures}{_weights_figure(train)}</div>'


def _curves_of(term: str, train: Sequence[Mapping], held: Sequence[Mapping]) -> str:
    steps = column(held, "step")
    every = np.concatenate([steps, column(train, "step")])
    margin = 0.04 * max(1.0, np.ptp(every))
    span = every.min() - margin, every.max() + margin  # the same in both drawings
    dots = {"color": SERIES[1], "linewidth": 1.4, "marker": "o", "markersize": 3}

    def paint_loss(axes: Axes) -> None:
        if train:
            paint_curve(axes, train, "value")
        axes.plot(steps, column(held, "loss"), **dots)
        axes.set_xlim(span)

    loss = loss_of(held[-1] if held else None)
    measure = loss.measure

    def paint_measure(axes: Axes) -> None:
        axes.plot(steps, column(held, measure.key), **dots)
        axes.plot(steps, column(held, f"baseline_{measure.key}"), "--", color=COLOURS["quiet"], linewidth=1.4)
        axes.set(xlim=span, ylim=(0, None))
        if measure.form.endswith("%"):
            axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.3g}%")

    drawings, caption = draw(NARROW, paint_loss, "step", loss.unit), escape(about(term))
    if held:
        drawings += draw(NARROW, paint_measure, "step", measure.title)
        caption += f" The baseline: {escape(held[-1]['baseline'])}."
    return figure(term, drawings, caption)


def _weights_figure(train: Sequence[Mapping]) -> str:
    """The weights of the terms where any of them changes."""
    found = {term: of_term(train, "coefficients", term) for term in terms_of(train)}
    lines = {term: (column(records, "step"), column(records, "value")) for term, records in found.items() if records}
    if all(np.allclose(values, values[0]) for _, values in lines.values()):
        return ""
    caption = "How much of each task's loss goes into the one number that training lowers: a higher line pulls more."
    svg = draw(NARROW, lambda axes: paint_lines(axes, lines), "step", "weight")
    return figure("Weights in the loss", svg, caption, looks(lines))


def scores(train: Sequence[Mapping], records: Sequence[Mapping]) -> str:
    """What was learned, task by task, and which classes are taken for which."""
    last = {term: record for term, record in last_task_scores(records).items() if loss_of_record(record)}
    if not last:
        return ""
    by_measure: dict[Measure, dict[str, Mapping]] = {}
    for term, record in last.items():
        by_measure.setdefault(loss_of(record).measure, {})[term] = record
    tables = "".join(_tables(measure, found, train) for measure, found in by_measure.items())
    pictures = "".join(
        confusion_figure(picture) for term, record in last.items() for picture in loss_of(record).pictures(term, record)
    )
    note = (
        "<p>In the pictures a row holds what truly is such, with how many there are; its numbers are how many percent "
        "of them the model takes for what stands below. A strong diagonal is good; a strong column is an answer that "
        "it gives too often. Of many classes the rarer stand together.</p>"
    )
    grid = f'{note}<div class="grid">{pictures}</div>' if pictures else ""
    return f"{_verdict(last)}{tables}{grid}"


def learnt(term: str, record: Mapping) -> str:
    """In a sentence or two what a term's newest score says of what was learnt; text, not HTML."""
    loss = loss_of(record)
    measure = loss.measure
    score, baseline = (_number(record[key], measure.form) for key in (measure.key, f"baseline_{measure.key}"))
    said = "better than that" if loss.margin(record) > 0 else "no better than that"
    return (
        f"{about(term)} A cheap baseline ({record['baseline']}) has {baseline} {measure.title} on held-out text; the "
        f"model, with {score} of {record['targets']:,} targets, is {said}."
    )


def examples(found: Mapping[str, Sequence[Mapping]], records: Sequence[Mapping]) -> str:
    """What was learned, in a sentence a task, with the examples of task_examples.json; nothing where there are none."""
    if not found:
        return ""
    last = last_task_scores(records)
    of_term = []
    for term in dict.fromkeys([*(term for term, record in last.items() if loss_of_record(record)), *found]):
        said = f"<p>{escape(learnt(term, last[term]))}</p>" if term in last else ""
        rows = [(escape(one["source"]), "".join(map(_part, one["parts"]))) for one in found.get(term, ())]
        of_term.append(f"<h3>{escape(term)}</h3>{said}{table(rows, 'words')}")
    note = (
        "<p>Below, held-out texts as the model reads them. Where it is asked something its answer stands in brackets, "
        "behind what it saw there; a wrong one is followed by what would have been right. None was picked.</p>"
    )
    return note + "".join(of_term)


def _part(part: Mapping[str, str]) -> str:
    if "said" not in part:
        return escape(part["text"])
    if part["is_right"]:
        answer = f"<b>{escape(part['said'])}</b> ✓"
    else:
        answer = f"<s>{escape(part['said'])}</s> ✗ <b>{escape(part['right'])}</b>"
    return f"{escape(part['text'])} [{answer}]"


def _tables(measure: Measure, last: Mapping[str, Mapping], train: Sequence[Mapping]) -> str:
    """The terms that are judged by one measure: over all text, and source by source where there are several."""
    sources = list(dict.fromkeys(source for record in last.values() for source in record["by_source"]))
    rows = []
    for term, record in last.items():
        weights, baseline = of_term(train, "coefficients", term), record[f"baseline_{measure.key}"]
        rows.append((
            two(escape(term), escape(about(term))), _number(record[measure.key], measure.form),
            two(_number(baseline, measure.form), escape(record["baseline"])), f"{record['targets']:,}",
            _number(record["loss"]), f"{weights[-1]['value']:.3g}" if weights else "–",
        ))  # fmt: skip
    units = dict.fromkeys(loss_of(record).unit for record in last.values())
    loss = f"loss<br>{' or '.join(units)}"
    head = ("task", measure.title, "a cheap baseline's", "targets", loss, "weight in the loss")
    by_source = [
        (escape(term), *(_of_source(measure, *record["by_source"].get(source, (None, 0))) for source in sources))
        for term, record in last.items()
    ]
    names = (measure.title, *map(escape, sources))
    return table(rows, "numbers scores", head) + (table(by_source, "numbers", names) if len(sources) > 1 else "")


def _verdict(last: Mapping[str, Mapping]) -> str:
    better = [term for term, record in last.items() if loss_of(record).margin(record) > 0]
    others = [term for term in last if term not in better]
    said = [f"beats a cheap baseline at {listed(better)}"] if better else []
    said += [f"does not beat {'it' if better else 'a cheap baseline'} at {listed(others)}"] if others else []
    return f"<p>On held-out text the model {escape(', and '.join(said))}.</p>"


def commonest(confusion_CC: np.ndarray, names: list[str]) -> tuple[np.ndarray, list[str]]:
    """The same with the rarer of too many classes as one."""
    if len(names) <= MOST_CLASSES:
        return confusion_CC, names
    kept = np.sort(np.argsort(-confusion_CC.sum(axis=1), kind="stable")[: MOST_CLASSES - 1])
    place = np.full(len(names), MOST_CLASSES - 1)
    place[kept] = np.arange(MOST_CLASSES - 1)
    folded = np.zeros((MOST_CLASSES, MOST_CLASSES), confusion_CC.dtype)
    np.add.at(folded, (place[:, None], place), confusion_CC)
    return folded, [*(names[k] for k in kept), f"{len(names) - len(kept)} others"]


def confusion_figure(picture: Matrix) -> str:
    confusion_CC, names = commonest(picture.count_CC, picture.classes)
    total_C1 = confusion_CC.sum(axis=1, keepdims=True)
    share_CC = np.where(total_C1 > 0, 100 * confusion_CC / np.maximum(total_C1, 1), np.nan)
    columns = [short(name, 16) for name in names]
    rows = [f"{name} ({total:,})" for name, total in zip(columns, total_C1[:, 0].tolist(), strict=True)]
    svg = draw_grid(share_CC, "{:.0f}", 100, rows, columns, "what the model says", "what is right")
    return figure(picture.title, svg, "")


def conflicts(records: Sequence[Mapping]) -> str:
    """Whether tasks pull the shared layers in opposite directions: the newest measurement, and all of them."""
    measured = {record["step"]: record for record in records if record["kind"] == "conflict"}
    if not measured:
        return ""
    newest = measured[max(measured)]
    pairs = dict(_pairs(newest))
    if not pairs:
        return ""
    lowest = min(pairs, key=lambda pair: pairs[pair])
    said = (
        f"{lowest} are the most opposed (cosine {pairs[lowest]:.2f})" if pairs[lowest] < 0
        else "no two tasks pull against each other"
    )  # fmt: skip
    note = (
        "<p>All tasks train the same layers, and each has a direction in which it would move them. The cosine of two "
        "directions is 1 where both tasks want the same, 0 where neither is the other's concern, and below 0 where one "
        "undoes the other's work. Single numbers are noisy: it matters what stays clearly below 0. Then compare with "
        f"runs that have one of the two, or give one less weight. At step {newest['step']:,} {escape(said)}.</p>"
    )
    cosine_JJ = np.array(newest["cosines"], float)
    np.fill_diagonal(cosine_JJ, np.nan)
    names = [short(term, 16) for term in newest["terms"]]
    caption = (
        "Blue: the two help each other; orange: they pull apart; pale: they do not touch. From ±0.5 on, full colour."
    )
    picture = figure("Which tasks pull together", draw_grid(cosine_JJ, "{:z.2f}", 0.5, names, names), caption)
    return f'{note}<div class="grid">{picture}{_conflicts_figure(measured)}</div>'


def _pairs(record: Mapping) -> Iterator[tuple[str, float]]:
    """(pair of terms, their cosine), as far as it is known."""
    for (i, one), (j, other) in itertools.combinations(enumerate(record["terms"]), 2):
        if record["cosines"][i][j] is not None:
            yield f"{one} and {other}", record["cosines"][i][j]


def _conflicts_figure(measured: Mapping[int, Mapping]) -> str:
    """The pairs over time, the most opposed if there are many; from two measurements on."""
    found: dict[str, list[tuple[int, float]]] = {}
    for step, record in sorted(measured.items()):
        for pair, cosine in _pairs(record):
            found.setdefault(pair, []).append((step, cosine))
    opposed = sorted(found, key=lambda pair: np.mean([cosine for _, cosine in found[pair]]))[:MOST_PAIRS]
    lines = {pair: tuple(np.array(found[pair]).T) for pair in opposed}

    def paint(axes: Axes) -> None:
        axes.axhline(0, color=COLOURS["quiet"], linewidth=1)
        paint_lines(axes, lines)

    if len(measured) < 2:
        return ""
    which = f"The {MOST_PAIRS} most opposed of {len(found)} pairs." if len(found) > MOST_PAIRS else "Every pair."
    caption = f"{which} A line that stays below 0 is a lasting conflict; one that keeps crossing it is mostly chance."
    return figure("Over the run", draw(WIDE, paint, "step", "cosine"), caption, looks(lines))


def views(found: Mapping[str, Mapping[str, float]]) -> str:
    """Held-out text read in both ways, of views.json."""
    note = (
        "<p>How surprising a token of held-out text is to the model when it knows only the text before it, and when it "
        "knows all other tokens on both sides. The second is easier, so that its numbers ought to be lower; they say "
        "how well the model reads, and are no measure of how well it compresses.</p>"
    )
    rows = [
        (escape(name), _number(one["causal"]), _number(one["bidirectional"]), f"{one['tokens']:,}")
        for name, one in found.items()
    ]
    head = ("source", "from the beginning<br>nats per token", "from both sides<br>nats per token", "tokens")
    return note + table(rows, "numbers", head) if rows else ""


def _of_source(measure: Measure, score: float | None, targets: int) -> str:
    return two(_number(score, measure.form), f"of {targets:,}") if targets else "–"


def _number(value: float | None, form: str = ".3f") -> str:
    return "–" if value is None or not np.isfinite(value) else format(value, form)
