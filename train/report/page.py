"""The parts that `report.html` is put together from: sections, tables, figures with their captions."""

import html
import re
from collections.abc import Iterable, Mapping, Sequence

from train.report.figures import Look, with_variables

escape = html.escape  # every text that is not ours passes through it


def section(title: str, body: str, grid: str = "") -> str:
    """`grid`: how what stands in it is laid out, as in report.css. Nothing to show, no section."""
    return f'<section><h2>{title}</h2><div class="{grid}">{body}</div></section>' if body else ""


def figure(title: str, svg: str, caption: str, legend: Mapping[str, Look] | None = None) -> str:
    """Drawings under one title, which goes before their labels. They and the caption are HTML already; the title and
    the legend are text."""
    title = escape(title)
    svg = re.sub(
        r'aria-label="([^"]*)"', lambda label: f'aria-label="{title}{": " if label[1] else ""}{label[1]}"', svg
    )
    below = f"<figcaption>{caption}</figcaption>" if caption else ""
    return f"<figure><h3>{title}</h3>{swatches(legend or {})}{svg}{below}</figure>"


# Pixels that are coloured and left out in turn, as CSS has no border of dashes and dots.
DASHES = {"--": (6, 3), ":": (2, 2), "-.": (7, 2, 2, 2)}


def swatches(legend: Mapping[str, Look]) -> str:
    """A legend: name -> look."""
    entries = "".join(
        f'<li><i style="background: {_fill(one)}"></i>{escape(name)}</li>' for name, one in legend.items()
    )
    return f'<ul class="legend">{entries}</ul>' if legend else ""


def _fill(one: Look) -> str:
    colour, stops, place = with_variables(one.colour), [], 0
    for number, pixels in enumerate(DASHES.get(one.dashes, ())):
        stops.append(f"{colour if number % 2 == 0 else 'transparent'} {place}px {place + pixels}px")
        place += pixels
    return f"repeating-linear-gradient(90deg, {', '.join(stops)})" if stops else colour


def table(rows: Sequence[Sequence[str]], kind: str, head: Sequence[str] = ()) -> str:
    """Cells are HTML already: the caller escapes. No rows, no table."""
    titles = f"<thead><tr>{''.join(f'<th>{title}</th>' for title in head)}</tr></thead>" if head else ""
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f'<div class="scroll"><table class="{kind}">{titles}<tbody>{body}</tbody></table></div>' if rows else ""


def two(first: str, second: str) -> str:
    """A cell of two lines, the second one small."""
    return f"{first}<small>{second}</small>"


def listed(words: Iterable[str]) -> str:
    """`a, b and c`."""
    *most, last = [*words] or [""]
    return f"{', '.join(most)} and {last}" if most else last
