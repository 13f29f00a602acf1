"""The report's section about an output head: figures before and after fine-tuning, confusions, errors, calibration."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from gptjax.evaluation.head_figures import FIGURES
from train.losses.loss import Matrix
from train.report.figures import COLOURS, SERIES, WIDE, Look, draw
from train.report.page import escape, figure, section, table
from train.report.report_tasks import confusion_figure

NAME = "heads.json"
LONGEST = 400  # characters of a text that is shown


def figure_rows(found: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """(what a figure is, that of the baseline, before, after, its interval) of all that `heads.json` holds; text."""
    rows = []
    for name in found["figures"]["after"]:
        one = FIGURES[name]
        whose = (found["figures"].get(which, {}) for which in ("baseline", "before", "after"))
        values = [_written(figures.get(name), one.form) for figures in whose]
        low, high = found["interval"].get(name, (None, None))
        interval = f"{low:{one.form}} to {high:{one.form}}" if low is not None and high is not None else ""
        rows.append((f"{one.title} ({'higher' if one.higher_is_better else 'lower'} is better)", *values, interval))
    return rows


def heads(found: Mapping[str, Any]) -> str:
    """The section, of what `heads.json` holds; nothing where a run has none."""
    if not found:
        return ""
    by = found["judged_by"]  # None: by nothing
    what = escape(FIGURES[by].title if by in FIGURES else f"{by}")
    best = "the newest" if by is None else f"of those on the way the best by {what}"
    note = (
        f"<p>{found['items']:,} held-out texts, by the checkpoint of step {found['step']:,}, which is the one that is "
        f"loaded: {best}. The baseline has read no text and {escape(found['baseline'])}; before is the head "
        "as it began. The interval holds the figure in 95 of 100 samples of such texts.</p>"
    )
    rows = [tuple(map(escape, row)) for row in figure_rows(found)]
    figures = note + table(rows, "numbers", ("", "baseline", "before", "after", "95 %"))
    title = f"What its head {found['head']!r} tells"
    return section(escape(title), f'{figures}<div class="grid">{_pictures(found)}</div>{_errors(found)}')


def _pictures(found: Mapping[str, Any]) -> str:
    pictures = ""
    if "confusion" in found:
        matrix = Matrix("What is taken for what, in percent", np.array(found["confusion"]), list(found["classes"]))
        pictures += confusion_figure(matrix)
    if "bins" in found:
        pictures += _reliability(found)
    if "points" in found:
        pictures += _scatter(found)
    return pictures + (_by_label(found) if "counts" in found else "")


def _reliability(found: Mapping[str, Any]) -> str:
    """How often what is told with some probability is so."""
    said, share, count = (
        np.array([one[key] for one in found["bins"]], float) for key in ("probability", "share", "count")
    )

    def paint(axes: Axes) -> None:
        axes.plot([0, 1], [0, 1], "--", color=COLOURS["quiet"], linewidth=1.2)
        axes.plot(said, share, color=SERIES[0], linewidth=1.4)
        axes.scatter(said, share, s=12 + 160 * count / count.sum(), color=SERIES[0], alpha=0.7, linewidths=0)
        axes.set(xlim=(0, 1.02), ylim=(0, 1.02))

    caption = (
        "A head whose probabilities are what they say lies on the dashed line; below it, it is surer than it ought to "
        "be. A larger dot stands for more answers."
    )
    legend = {"the head": Look(SERIES[0]), "as it should be": Look(COLOURS["quiet"], "--")}
    return figure(
        "How sure it is, and how right", draw(WIDE, paint, "probability", "share that is so"), caption, legend
    )


def _scatter(found: Mapping[str, Any]) -> str:
    """What is told of each text beside what is so."""
    is_so, told = np.array(found["points"], float).T
    span = [float(min(is_so.min(), told.min())), float(max(is_so.max(), told.max()))]

    def paint(axes: Axes) -> None:
        axes.plot(span, span, "--", color=COLOURS["quiet"], linewidth=1.2)
        axes.scatter(is_so, told, s=10, color=SERIES[0], alpha=0.5, linewidths=0)

    caption = "A dot a text. On the dashed line the head is right; a flat cloud is a head that tells the mean of all."
    return figure("What is so, and what it tells", draw(WIDE, paint, "what is so", "what the head tells"), caption)


def _by_label(found: Mapping[str, Any]) -> str:
    """Of each label how often it is right."""
    rows = [
        (escape(name), f"{true:,}", f"{answered:,}", f"{right:,}", f"{2 * right / max(1, answered + true):.3f}")
        for name, (right, answered, true) in zip(found["classes"], found["counts"], strict=True)
    ]
    return table(rows, "numbers", ("label", "texts with it", "told", "rightly", "F1"))


def _errors(found: Mapping[str, Any]) -> str:
    """The texts that the head is most wrong about."""
    rows = []
    for error in found["errors"]:
        text = error["text"] if error["second"] is None else f"{error['text']} ⏵ {error['second']}"
        shown = text if len(text) <= LONGEST else f"{text[:LONGEST]} …"
        by = f"{error['by']:.4g} off" if found["kind"] == "values" else f"{error['by']:.0%} sure"
        rows.append((escape(error["told"]), escape(by), escape(error["is"]), escape(shown)))
    told = "<h3>Where it is most wrong</h3>" if rows else ""
    return told + table(rows, "words", ("it tells", "", "but it is", "of this text"))


def _written(value: float | None, form: str) -> str:
    return "–" if value is None or not math.isfinite(value) else format(value, form)
