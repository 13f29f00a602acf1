"""What vectors of texts hold, as one page of HTML: a probe beside TF-IDF, a map, nearest neighbours.

Axes: I texts  D features  C classes.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from string import Template

import numpy as np

from gptjax.evaluation.head_figures import in_words
from gptjax.probing.folds import FOLDS, probed_classes
from gptjax.probing.geometry import flat_map, nearest
from gptjax.probing.linear_probe import Probe, figures_of, of_vectors, of_words, probed
from gptjax.results import Metric

TEMPLATE = Path(__file__).with_name("features.html")
COLOURS = 10  # of labels; the rarer ones share one
SHOWN, NEAREST = 24, 3  # texts, evenly over all, and their neighbours
LETTERS = 160  # of a text
WIDTH, HEIGHT, MARGIN = 760, 480, 12  # of the map
VECTORS, WORDS, COMMONEST = "these vectors", "TF-IDF of the same texts", "the commonest class, always"


def page(name: str, made: str, texts: Sequence[str], labels: Sequence[str] | None, vector_ID: np.ndarray) -> str:
    """The page; `made`: a sentence on how the vectors were made. It asks for nothing outside, and has no program.

    Raises ValueError where labels are given and fewer than two of them can be probed.
    """
    colour = _colours(labels)
    flat = flat_map(vector_ID)
    return Template(TEMPLATE.read_text(encoding="utf-8")).substitute(
        name=escape(name),
        made=escape(made),
        colours="\n".join(f".k{k} {{ fill: var(--k{k}); background: var(--k{k}); }}" for k in range(COLOURS)),
        probe=_probe(texts, labels, vector_ID),
        share=f"{flat.share_2.sum():.0%}",
        legend=_legend(labels, colour),
        map=_map(flat.place_I2, texts, labels, colour),
        agreement=_agreement(labels, vector_ID),
        neighbours=_neighbours(texts, labels, vector_ID),
    )


def _probe(texts: Sequence[str], labels: Sequence[str] | None, vector_ID: np.ndarray) -> str:
    if labels is None:
        return "<p>No labels were given; with --label FIELD it says how well they can be read out of the vectors.</p>"
    classes = probed_classes(labels)
    kept = [number for number, label in enumerate(labels) if label in classes]
    label_I = np.array([classes.index(labels[number]) for number in kept])
    by = {
        VECTORS: probed(of_vectors(vector_ID[kept]), label_I, len(classes)),
        WORDS: probed(of_words([texts[number] for number in kept]), label_I, len(classes)),
        COMMONEST: Probe(np.eye(len(classes))[np.full(len(kept), np.bincount(label_I).argmax())], ()),
    }
    figures = {who: figures_of(probe, label_I) for who, probe in by.items()}
    left_out = len(labels) - len(kept)
    said = (
        f"Logistic regression, {FOLDS} times: fitted to all parts of the texts but one, and asked of that one; how "
        f"strongly it is bound is chosen among the others. {len(kept):,} texts, {len(classes)} classes; in brackets "
        "95 % intervals over texts."
    )
    if left_out:
        said += f" Left out, as their classes have fewer than {FOLDS} texts: {left_out:,}."
    titles = list(in_words({"accuracy": 0.0, "macro_f1": 0.0}))
    whole = [(who, *map(_interval, found.values(), (".1%", ".3f"))) for who, found in figures.items()]
    right_I = {who: probe.probability_IC.argmax(axis=1) == label_I for who, probe in by.items()}
    each = [
        (escape(name), f"{(label_I == c).sum():,}", *(f"{right_I[who][label_I == c].mean():.0%}" for who in by))
        for c, name in enumerate(classes)
    ]
    return (
        f"<p>{said}</p>{_table(('told by', *titles), whole)}"
        f"<p class='quiet'>By class, how many are found:</p>{_table(('class', 'texts', *by), each)}"
    )


def _interval(found: Metric, form: str) -> str:
    if found.low is None or found.high is None:
        return format(found.value, form)
    return f"{found.value:{form}} ({found.low:{form}} to {found.high:{form}})"


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Its first column is text, the others are numbers; all is HTML already."""

    def row(cells: Sequence[str], tag: str) -> str:
        marks = ("", *[' class="number"'] * (len(cells) - 1))
        return (
            "<tr>" + "".join(f"<{tag}{mark}>{cell}</{tag}>" for cell, mark in zip(cells, marks, strict=True)) + "</tr>"
        )

    return f"<table>{row(headings, 'th')}{''.join(row(cells, 'td') for cells in rows)}</table>"


def _colours(labels: Sequence[str] | None) -> dict[str, str]:
    """The class that colours each of the commonest labels."""
    commonest = Counter(labels or ()).most_common(COLOURS)
    return {label: f"k{number}" for number, (label, _) in enumerate(commonest)}


def _legend(labels: Sequence[str] | None, colour: dict[str, str]) -> str:
    if labels is None:
        return ""
    counts = Counter(labels)
    said = [(mark, escape(label), counts[label]) for label, mark in colour.items()]
    if others := len(labels) - sum(count for _, _, count in said):
        said.append(("", "others", others))
    dots = (f'<span><span class="dot {mark}"></span>{name} {count:,}</span>' for mark, name, count in said)
    return f'<div class="legend">{"".join(dots)}</div>'


def _map(place_I2: np.ndarray, texts: Sequence[str], labels: Sequence[str] | None, colour: dict[str, str]) -> str:
    low_12, high_12 = place_I2.min(axis=0, keepdims=True), place_I2.max(axis=0, keepdims=True)
    shown_I2 = (place_I2 - low_12) / np.maximum(high_12 - low_12, 1e-12) * [[WIDTH, HEIGHT]] + MARGIN
    dots = []
    for number, (x, y) in enumerate(shown_I2.tolist()):
        label = None if labels is None else labels[number]
        said = _short(texts[number]) if label is None else f"{label}: {_short(texts[number])}"
        mark = colour.get(label or "", "")
        dots.append(f'<circle class="{mark}" cx="{x:.1f}" cy="{y:.1f}" r="4"><title>{escape(said)}</title></circle>')
    size = f"{WIDTH + 2 * MARGIN} {HEIGHT + 2 * MARGIN}"
    return f'<svg viewBox="0 0 {size}" role="img" aria-label="map of the texts">{"".join(dots)}</svg>'


def _agreement(labels: Sequence[str] | None, vector_ID: np.ndarray) -> str:
    """How often the nearest neighbour has the same label, and how often any other text has."""
    if labels is None or len(labels) < 2:
        return ""
    label_I = np.unique(labels, return_inverse=True)[1].reshape(-1)
    same = np.mean(label_I[nearest(vector_ID, 1).number_IK[:, 0]] == label_I)
    count_C = np.bincount(label_I)
    chance = (count_C * (count_C - 1)).sum() / (len(labels) * (len(labels) - 1))
    return f" {same:.0%} of the nearest have the label of their text; of any two texts {chance:.0%} have the same."


def _neighbours(texts: Sequence[str], labels: Sequence[str] | None, vector_ID: np.ndarray) -> str:
    found = nearest(vector_ID, NEAREST)

    def row(number: int, cosine: str, mark: str) -> str:
        label = "" if labels is None else f"<td>{escape(labels[number])}</td>"
        return f'<tr{mark}><td class="number">{cosine}</td>{label}<td>{escape(_short(texts[number]))}</td></tr>'

    rows = []
    for number in dict.fromkeys(np.linspace(0, len(texts) - 1, SHOWN).astype(int).tolist()):
        rows.append(row(number, "", ' class="asked"'))
        near = zip(found.number_IK[number].tolist(), found.cosine_IK[number].tolist(), strict=True)
        rows += [row(other, f"{cosine:.2f}", "") for other, cosine in near]
    return f"<table>{''.join(rows)}</table>"


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= LETTERS else f"{line[: LETTERS - 1]}…"
