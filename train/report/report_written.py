"""The report's section about answers where one is right: figures beside those of baselines, and ten examples."""

from collections.abc import Mapping
from typing import Any

from gptjax.evaluation.text_figures import TITLES
from train.report.page import escape, section, table


def written_rows(found: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """A heading, then (figure, value of each writer) of a source in `written.json`; text, not HTML."""
    figures = found["figures"]
    names = next(iter(figures.values()))
    rows = [(str(TITLES.get(name, name)), *(f"{of_one[name]:.1f}" for of_one in figures.values())) for name in names]
    return [("", *map(str, figures)), *rows]


def written(found: Mapping[str, Mapping[str, Any]]) -> str:
    """The sections, of what `written.json` holds; nothing where a run has none."""
    sections = []
    for source, of_source in found.items():
        head, *rows = ([*map(escape, row)] for row in written_rows(of_source))
        at = f" of step {of_source['step']}" if "step" in of_source else ""  # which older runs do not tell
        left_out = f"; {of_source['left_out']} more left no room for one" if of_source["left_out"] else ""
        note = (
            f"<p>{of_source['items']} answers to held-out examples, the most probable ones{at}, of at most "
            f"{of_source['tokens']} tokens{left_out}. From 0 to 100, higher is better: after tuning, before it, and of "
            "what needs no model.</p>"
        )
        columns = list(of_source["samples"][0]) if of_source["samples"] else []
        examples = [tuple(escape(sample[name]) for name in columns) for sample in of_source["samples"]]
        shown = "<p>The first of them. None was picked.</p>" + table(examples, "words", [*map(escape, columns)])
        sections.append(
            section(f"Answers to {escape(source)}", note + table(rows, "numbers", head) + (shown if examples else ""))
        )
    return "".join(sections)
