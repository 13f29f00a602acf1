"""The report's section about talking: replies before and after fine-tuning, and what was forgotten."""

from collections.abc import Mapping
from typing import Any

from train.report.page import escape, section, table

FIGURES = (  # key of replies.json, what it is, how it is written
    ("nats", "nats a token of their text (lower is better)", ".3f"),
    ("ending", "probability of ending the turn where a reply ends", ".1%"),
    ("stops", "greedy replies that end by themselves within 64 tokens", ".0%"),
    ("length", "median length of these, tokens", ".0f"),
)


def figure_rows(found: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """(what a figure is, before, after) of all that `replies.json` holds; text, not HTML."""
    before, after = found["before"], found["after"]
    rows = [(text, *(format(figures[key], digits) for figures in (before, after))) for key, text, digits in FIGURES]
    for key, title in (("by_source", "nats a token, {}"), ("forgotten", "bits a byte of {}")):
        for source in after[key]:
            rows.append((title.format(source), *(f"{figures[key][source]:.3f}" for figures in (before, after))))
    return rows


def replies(found: Mapping[str, Any]) -> str:
    """The section, of what `replies.json` holds; nothing where a run has none."""
    if not found:
        return ""
    rows = [(escape(text), before, after) for text, before, after in figure_rows(found)]
    count = found["after"]["replies"]
    at = f" The tuned model is that of step {found['step']}." if "step" in found else ""  # older runs do not tell
    note = (
        f"<p>{count} replies of conversations that neither pretraining nor tuning has read, each model "
        "in its own way of talking; the token that ends a turn is counted apart. Bits a byte are those of held-out "
        f"text that the base was trained on, or of an encyclopaedia: what rises there was forgotten.{at}</p>"
    )
    figures = note + table(rows, "numbers", ("", "before", "after"))
    talks = [
        tuple(escape(sample[key]) for key in ("prompt", "person", "before", "after")) for sample in found["samples"]
    ]
    told = "<p>The most probable reply to the first turn of held-out conversations. None was picked.</p>"
    side_by_side = told + table(talks, "words", ("you say", "a person replied", "before", "after"))
    return section("How it replies", figures) + section("Replies before and after", side_by_side if talks else "")
