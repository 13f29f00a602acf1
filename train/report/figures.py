"""Figures of `report.html`: inline SVG whose text stays text and whose colours follow the reader's light or dark."""

import html
import io
import re
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator, StrMethodFormatter

STYLE = Path(__file__).with_name("report.css").read_text(encoding="utf-8")
COLOURS = dict(re.findall(r"--(\w+): (#\w{6})", STYLE[: STYLE.index("@media")]))  # figures are drawn in the light ones
SERIES = [COLOURS[f"c{i}"] for i in range(8)]
DRAWING: dict[Any, Any] = {
    "svg.fonttype": "none", "svg.hashsalt": "gptjax", "text.parse_math": False,
    "font.size": 9, "font.family": "DejaVu Sans",
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "axes.axisbelow": True,
    "axes.edgecolor": COLOURS["rule"], "axes.labelcolor": COLOURS["quiet"], "text.color": COLOURS["quiet"],
    "grid.color": COLOURS["rule"], "grid.linewidth": 0.7, "xtick.major.size": 0, "ytick.major.size": 0,
    "xtick.color": COLOURS["quiet"], "ytick.color": COLOURS["quiet"],
}  # fmt: skip
WIDE, NARROW = (4.2, 2.8), (3.2, 2.2)  # inches, near the size on screen, so that letters keep theirs


def column(records: Iterable[Mapping], name: str) -> np.ndarray:
    return np.array([record.get(name) for record in records], float)  # absent or null becomes NaN


def smooth(values: np.ndarray, width: int) -> np.ndarray:
    """Mean over `width` neighbours (fewer at the ends), the near ones weighing most; NaN are left out."""
    known, bell = np.isfinite(values), np.hanning(max(1, min(width, len(values))) + 2)[1:-1]
    weight = np.convolve(known, bell, "same")
    return np.convolve(np.where(known, values, 0.0), bell, "same") / np.where(weight > 0, weight, np.nan)


def thin(values: np.ndarray, most: int = 800) -> np.ndarray:
    """Indices that keep the lowest and highest of each stretch, so that a long run still shows its spikes."""
    if len(values) <= most:
        return np.arange(len(values))
    filled = np.where(np.isfinite(values), values, np.nanmedian(values))
    stretches = np.array_split(np.arange(len(values)), most // 2)
    return np.unique([stretch[pick(filled[stretch])] for stretch in stretches for pick in (np.argmin, np.argmax)])


def draw(size: tuple[float, float], paint: Callable[[Axes], object], x: str, y: str) -> str:
    """One pair of axes as inline SVG, in the page's colours and letters; its label, for who hears it, is `y` or `x`."""
    with matplotlib.rc_context(DRAWING), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # glyphs that matplotlib's own font lacks; the browser's has them
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.add_subplot(xlabel=x, ylabel=y)
        if x == "step":
            axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10], integer=True))
            axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
            axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}" if abs(value) >= 1000 else f"{value:g}")
        paint(axes)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True)
    svg = re.sub(r"<metadata>.*?</metadata>", "", buffer.getvalue(), flags=re.DOTALL)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg[svg.index("<svg") :])  # ids of groups would repeat from figure to figure
    svg = svg.replace("<svg", f'<svg role="img" aria-label="{html.escape(y or x)}"', 1)
    return with_variables(svg.replace("'DejaVu Sans'", "var(--sans), var(--hans), sans-serif"))


def with_variables(markup: str) -> str:
    """Each light colour becomes its CSS variable, which is another colour for a reader in the dark."""
    for name, colour in COLOURS.items():
        markup = markup.replace(colour, f"var(--{name})")
    return markup


def paint_curve(axes: Axes, records: Sequence[Mapping], name: str, *, smoothed: bool = True) -> None:
    steps, values = column(records, "step"), column(records, name)
    keep = thin(values)
    dots = {"marker": "o" if len(steps) < 8 else None, "markersize": 3}
    axes.plot(steps[keep], values[keep], color=SERIES[0], alpha=0.3 if smoothed else 1, linewidth=1, **dots)
    if smoothed:
        axes.plot(steps[keep], smooth(values, len(values) // 15)[keep], color=SERIES[0], linewidth=1.6)


class Look(NamedTuple):
    """What a line, and its swatch in a legend, looks like."""

    colour: str
    dashes: str = "-"  # as Matplotlib has it


def look(number: int) -> Look:
    """The look of the n-th of several lines. After eight the colours begin anew, with other dashes."""
    return Look(SERIES[number % len(SERIES)], ("-", "--", ":", "-.")[number // len(SERIES) % 4])


def looks(names: Iterable[str]) -> dict[str, Look]:
    """The looks that `paint_lines` gives to lines of these names."""
    return {name: look(number) for number, name in enumerate(names)}


def paint_lines(axes: Axes, lines: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> None:
    """Name -> (steps, values)."""
    for number, (steps, values) in enumerate(lines.values()):
        keep, (colour, dashes) = thin(values), look(number)
        dots = {"marker": "o" if len(steps) <= 50 else None, "markersize": 3}
        axes.plot(steps[keep], values[keep], dashes, color=colour, linewidth=1.4, **dots)


def short(name: str, most: int) -> str:
    """The end of a long name: that of a path tells more than its beginning."""
    return name if len(name) <= most else f"…{name[1 - most :]}"


def draw_grid(
    values: np.ndarray, form: str, full: float, rows: Sequence[str], columns: Sequence[str], x: str = "", y: str = ""
) -> str:
    """A matrix as cells with numbers: blue above 0, orange below, strongest from `full` on; NaN stay empty.

    The colours are see-through, not mixed with white, so that they follow light and dark.
    """
    texts = {place: form.format(value) for place, value in np.ndenumerate(values) if np.isfinite(value)}
    cell = 0.12 + 0.075 * max(map(len, texts.values()), default=0)  # inches
    fits = max(map(len, columns)) * 0.08 < (WIDE[0] - 1.4) / len(columns)

    def paint(axes: Axes) -> None:
        for (i, j), text in texts.items():
            strength = 0.55 * min(1, abs(values[i, j]) / full)
            colour = SERIES[0] if values[i, j] > 0 else SERIES[1]
            axes.add_patch(Rectangle((j + 0.02, i + 0.02), 0.96, 0.96, facecolor=colour, alpha=strength, linewidth=0))
            axes.text(j + 0.5, i + 0.5, text, ha="center", va="center", fontsize=8, color=COLOURS["ink"])
        turned = {} if fits else {"rotation": 40, "ha": "right", "rotation_mode": "anchor"}
        axes.set_xticks(np.arange(len(columns)) + 0.5, columns, color=COLOURS["ink"], **turned)
        axes.set_yticks(np.arange(len(rows)) + 0.5, rows, color=COLOURS["ink"])
        axes.set(xlim=(0, len(columns)), ylim=(len(rows), 0))
        axes.grid(visible=False)
        axes.spines[:].set_visible(False)

    size = (max(WIDE[0], 1.4 + cell * len(columns)), (0.7 if fits else 1.3) + 0.3 * len(rows))
    return draw(size, paint, x, y)
