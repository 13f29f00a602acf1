"""The parts that `report.html` is put together from: sections, tables, figures with their captions."""

import html
from collections.abc import Iterable, Mapping, Sequence

from train.figures import with_variables

escape = html.escape  # every text that is not ours passes through it


def section(title: str, body: str, grid: str = "") -> str:
    """`grid`: how what stands in it is laid out, as in report.css. Nothing to show, no section."""
    return f'<section><h2>{title}</h2><div class="{grid}">{body}</div></section>' if body else ""


def figure(title: str, svg: str, caption: str, legend: Mapping[str, str] | None = None) -> str:
    """Drawings under one title. They and the caption are HTML already; the title and the legend are text."""
    title = escape(title)
    svg = svg.replace("<svg", f'<svg role="img" aria-label="{title}"')
    below = f"<figcaption>{caption}</figcaption>" if caption else ""
    return f"<figure><h3>{title}</h3>{swatches(legend or {})}{svg}{below}</figure>"


def swatches(legend: Mapping[str, str]) -> str:
    """A legend: name -> colour."""
    colours = {name: f'<i style="background: {with_variables(colour)}"></i>' for name, colour in legend.items()}
    entries = "".join(f"<li>{colour}{escape(name)}</li>" for name, colour in colours.items())
    return f'<ul class="legend">{entries}</ul>' if legend else ""


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
