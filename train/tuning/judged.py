"""What follows fine-tuning on labelled texts, as a hook: figures before and after, beside who has not read the texts.

Axes: I held-out texts  C classes of the head, or 1.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.markup import escape
from rich.table import Table

from data.description import read_prepared
from data.examples.labelling import TEXTS
from gptjax.batch import ClassHead
from gptjax.evaluation import head_figures
from gptjax.evaluation.head_figures import FIRST, calibration, confusion, figures, label_counts
from gptjax.files.atomic_file import write_whole
from gptjax.files.plain_json import dumps
from gptjax.inference.head_input import head_inputs, head_named
from gptjax.inference.language_model import LanguageModel
from gptjax.nn.lora import merged
from gptjax.results import metric
from train.report.finish import REPORT, Finished, Hook
from train.report.report_heads import NAME, figure_rows
from train.tuning.beginning import tuned_from
from train.tuning.judging import made_head, truth
from train.tuning.tune_recipe import TuneRecipe, judged_by

WORST, POINTS = 12, 500  # errors that are told with their text; numbers that are drawn


def _judge(finished: Finished) -> None:
    """Measures the head as it began and as it is loaded, and writes both."""
    parts, prepared = finished.parts, finished.text.prepared
    recipe, head = parts.recipe, made_head(prepared)
    assert isinstance(recipe, TuneRecipe)
    if not finished.text.rows.reads.get("labelled"):
        return
    finished.console.print("\nmeasuring held-out texts before and after ...")
    texts, true_IC = held_out_texts(prepared), truth(prepared, "validation")
    models: dict[str, LanguageModel] = {}
    if jax.process_count() == 1:  # else the others, who have their share of it, are gone
        params, config = merged(tuned_from(parts, recipe, lambda line: None).params, parts.config)
        models["before"] = LanguageModel(config, finished.text.tokenizer, params, mesh=parts.mesh)
    models["after"] = finished.model()
    told = {name: answers(model, head, texts) for name, model in models.items()}
    said, baseline_IC = head_figures.baseline(head.kind, truth(prepared, "train"), len(texts))
    found = {
        "head": head.name, "kind": head.kind, "classes": list(head.classes), "items": len(texts),
        "step": models["after"].step, "baseline": said, "judged_by": judged_by(recipe),
        "figures": {
            name: figures(head.kind, found_IC, true_IC) for name, found_IC in {"baseline": baseline_IC, **told}.items()
        },
        "interval": _interval(head, told["after"], true_IC),
        **_drawn(head, told["after"], true_IC),
        "errors": worst(head, texts, told["after"], true_IC),
    }  # fmt: skip
    write_whole(finished.run / NAME, dumps(found, indent=1, ensure_ascii=False) + "\n")
    finished.console.print(figures_table(found))
    for error in found["errors"][:3]:
        text = " ".join(error["text"].split())[:160]
        finished.console.print(
            f"  [bold]{escape(error['told'])}[/], is {escape(error['is'])}: {escape(text)}", highlight=False
        )


def held_out_texts(prepared: Path) -> list[tuple[str, str | None]]:
    """What is held out of all sources in turn, in the order of the documents; None = no second text."""
    found = []
    for source in read_prepared(prepared)["sources"].values():
        path = prepared / source["folder"] / "validation" / TEXTS
        if source.get("whole") and path.exists():
            lines = map(json.loads, path.read_text(encoding="utf-8").split("\n")[:-1])  # a text may have U+2028
            found += [(line["text"], line["second"]) for line in lines]
    return found


def answers(model: LanguageModel, head: ClassHead, texts: Sequence[tuple[str, str | None]]) -> np.ndarray:
    """What the model tells of them by a head: probabilities, or the number in the user's units; f64 [I, C]."""
    asked = [text if second is None else (text, second) for text, second in texts]
    number = head_named(model.config.class_heads, head.name)
    ids = [one.ids for one in head_inputs(model.tokenizer, model.config.class_heads[number], asked)]
    told_IC = model.class_log_probs(ids, number).astype(np.float64)
    return told_IC if head.kind == "values" else np.exp(told_IC)


def _interval(head: ClassHead, found_IC: np.ndarray, true_IC: np.ndarray) -> dict[str, list[float | None]]:
    """Of the figure that heads of its kind are judged by, where it would lie in 95 of 100 samples of such texts."""
    name = FIRST[head.kind]
    whole = metric(lambda drawn: figures(head.kind, found_IC[drawn], true_IC[drawn])[name], len(found_IC))
    return {name: [whole.low, whole.high]}


def _drawn(head: ClassHead, found_IC: np.ndarray, true_IC: np.ndarray) -> dict[str, Any]:
    """What the report draws."""
    if head.kind == "values":
        spread = np.linspace(0, len(found_IC) - 1, min(POINTS, len(found_IC))).astype(int)
        return {"points": np.concatenate([true_IC, found_IC], axis=1)[spread]}
    if head.kind == "labels":
        counts = label_counts(found_IC >= 0.5, true_IC > 0)
        bins = calibration(found_IC.ravel(), true_IC.ravel() > 0)
        return {"counts": np.stack(counts, axis=1), "bins": bins.as_json()}
    label_I, answer_I = true_IC.argmax(axis=1), found_IC.argmax(axis=1)
    bins = calibration(found_IC.max(axis=1), answer_I == label_I)
    return {"confusion": confusion(label_I, answer_I, found_IC.shape[1]), "bins": bins.as_json()}


def worst(
    head: ClassHead, texts: Sequence[tuple[str, str | None]], found_IC: np.ndarray, true_IC: np.ndarray
) -> list[dict[str, Any]]:
    """The held-out texts that the head is most wrong about: what it tells, what is so, how sure or far off it is."""
    if head.kind == "values":
        off_I = np.abs(found_IC - true_IC)[:, 0]
        order = np.argsort(-off_I, kind="stable")
        shown = [(i, f"{found_IC[i, 0]:.4g}", f"{true_IC[i, 0]:.4g}", float(off_I[i])) for i in order[:WORST].tolist()]
    elif head.kind == "labels":
        wrong_IC = np.where(true_IC > 0, 1 - found_IC, found_IC)
        order = [i for i in np.argsort(-wrong_IC.max(axis=1), kind="stable").tolist() if wrong_IC[i].max() > 0.5]
        shown = [
            (i, _names(head, found_IC[i] >= 0.5), _names(head, true_IC[i] > 0), float(wrong_IC[i].max()))
            for i in order[:WORST]
        ]  # fmt: skip
    else:
        answer_I, label_I = found_IC.argmax(axis=1), true_IC.argmax(axis=1)
        sure_I = found_IC.max(axis=1)
        order = [i for i in np.argsort(-sure_I, kind="stable").tolist() if answer_I[i] != label_I[i]]
        shown = [(i, head.classes[answer_I[i]], head.classes[label_I[i]], float(sure_I[i])) for i in order[:WORST]]
    return [
        {"text": texts[i][0], "second": texts[i][1], "told": told, "is": is_so, "by": by}
        for i, told, is_so, by in shown
    ]  # fmt: skip


def _names(head: ClassHead, is_C: np.ndarray) -> str:
    return ", ".join(name for name, one in zip(head.classes, is_C.tolist(), strict=True) if one) or "none"


def figures_table(found: dict[str, Any]) -> Table:
    """For people."""
    title = f"head {found['head']!r} on {found['items']} held-out texts, at step {found['step']}"
    table = Table(
        title=escape(title), title_justify="left", box=None, caption=escape(f"the baseline {found['baseline']}")
    )
    for heading in ("", "baseline", "before", "after", "95 %"):
        table.add_column(heading, justify="left" if not heading else "right", no_wrap=True)
    for row in figure_rows(found):
        table.add_row(*map(escape, row))
    return table


def _last_words(finished: Finished) -> None:
    if not finished.text.rows.reads.get("labelled"):
        return
    head = made_head(finished.text.prepared)
    finished.console.print(
        f"ask it: [bold]gptjax predict {escape(str(finished.run))} FILE --head {escape(head.name)}[/]", highlight=False
    )


JUDGED = (
    Hook("held-out texts before and after", _judge),
    REPORT,
    Hook("last words", _last_words),
)
