"""The report's section about the inside of the model: what its heads look at, and how its layers have changed.

Axes: L layers  N heads.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from gptjax.look.head_roles import ENOUGH, ROLES
from train.report.figures import WIDE, draw, draw_grid, looks, paint_lines
from train.report.page import figure

MOST_LAYERS = 8  # that are drawn, evenly spread


def inside(records: Sequence[Mapping]) -> str:
    """Of the records of that kind; nothing where a run has none."""
    found = {record["step"]: record for record in records if record["kind"] == "inside"}
    if not found:
        return ""
    by_step = dict(sorted(found.items()))
    newest = by_step[max(by_step)]
    note = (
        "<p>Seen in the model's own forward pass over the beginnings of held-out documents and, for what heads do, "
        f"over random tokens that are said twice. {_jobs(newest)}</p>"
    )
    pictures = _entropy_figure(by_step), _roles_figure(by_step), _layers_figure(newest), _earlier_figure(newest)
    return f'{note}<div class="grid">{"".join(pictures)}</div>'


def _jobs(newest: Mapping) -> str:
    """Which heads have a role by now."""
    said = []
    for role, shares in newest["roles"].items():
        share_LN = np.array(shares)
        named = [f"{layer}.{head} ({share_LN[layer, head]:.0%})" for layer, head in np.argwhere(share_LN >= ENOUGH)]
        if named:
            more = f" and {len(named) - 4} more" if len(named) > 4 else ""
            said.append(f"{role}: {', '.join(named[:4])}{more}")
    jobs = "; ".join(said) or "none"
    return (
        f"Heads of which at least {ENOUGH:.0%} of the attention goes where a role says, at step {newest['step']:,}, as "
        f"layer.head: {jobs}."
    )


def _entropy_figure(by_step: Mapping[int, Mapping]) -> str:
    steps = np.array(list(by_step))
    entropy_SLN = np.array([record["entropy"] for record in by_step.values()])
    lines = {f"layer {layer}": (steps, entropy_SLN[:, layer].mean(axis=-1)) for layer in _some(entropy_SLN.shape[1])}
    caption = (
        "Mean over the heads of a layer. 0 is a token that looks at one other alone; a new model spreads its attention "
        "evenly, and heads that found something to look for spread it less."
    )
    svg = draw(WIDE, lambda axes: paint_lines(axes, lines), "step", "nats")
    return figure("Entropy of attention", svg, caption, looks(lines))


def _roles_figure(by_step: Mapping[int, Mapping]) -> str:
    steps = np.array(list(by_step))
    lines = {
        role: (steps, np.array([np.max(record["roles"][role]) for record in by_step.values()]))
        for role in ROLES
        if all(role in record["roles"] for record in by_step.values())
    }
    if not lines:
        return ""
    caption = (
        "The share of its attention that the strongest head of all gives to what a role says: the token right before, "
        "the first of the text, the same word elsewhere, or what followed that (induction). Induction needs a head of "
        "the first kind in an earlier layer, and comes late."
    )
    svg = draw(WIDE, lambda axes: paint_lines(axes, lines), "step", "share of attention")
    return figure("What heads look at", svg, caption, looks(lines))


def _layers_figure(newest: Mapping) -> str:
    some = _some(len(newest["layers"]))
    if len(some) < 2:
        return ""
    alike_LL = np.array(newest["layers"])[np.ix_(some, some)]
    np.fill_diagonal(alike_LL, np.nan)
    names = [f"layer {layer}" for layer in some]
    caption = (
        "Linear CKA of the states behind two layers: 1 where one is the other turned and scaled. Where neighbours are "
        "nearly 1, the layer between them changes little."
    )
    grid = draw_grid(alike_LL, "{:.2f}", 1.0, names, names)
    return figure(f"How alike layers are, at step {newest['step']:,}", grid, caption)


def _earlier_figure(newest: Mapping) -> str:
    steps = np.array([*map(int, newest["earlier"]), newest["step"]])
    if len(steps) < 2:
        return ""
    alike_SL = np.array([*newest["earlier"].values(), [1.0] * len(newest["layers"])])
    lines = {f"layer {layer}": (steps, alike_SL[:, layer]) for layer in _some(alike_SL.shape[1])}
    caption = (
        f"Linear CKA of the states behind a layer, then and at step {newest['step']:,}: a line that is near 1 early "
        "belongs to a layer that has settled."
    )
    svg = draw(WIDE, lambda axes: paint_lines(axes, lines), "step", "CKA")
    return figure("How near layers were to what they are", svg, caption, looks(lines))


def _some(count: int) -> list[int]:
    """Numbers of layers, at most MOST_LAYERS of them."""
    return np.unique(np.linspace(0, count - 1, min(count, MOST_LAYERS)).astype(int)).tolist()
