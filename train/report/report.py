"""`report.html`: one page that shows a run. Reads the files of the run directory alone; the page fetches nothing."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from data.rows.mixture import RATE_UNIT
from gptjax.config import load_model_config
from gptjax.files.atomic_file import write_whole
from gptjax.files.plain_json import dumps
from train.record.jsonl_log import records_of
from train.record.metrics import (
    Record,
    Score,
    SourceRecord,
    Train,
    as_json,
    by_step,
    overall_loss,
    read_metrics,
    scores_by_step,
)
from train.record.older import other_tasks, recipe_tree, views_tree
from train.record.starts import time_spent
from train.report import report_tasks
from train.report.figures import (
    COLOURS,
    NARROW,
    SERIES,
    STYLE,
    WIDE,
    Look,
    column,
    draw,
    look,
    looks,
    paint_curve,
    paint_lines,
    short,
)
from train.report.page import escape, figure, listed, section, table, two
from train.report.report_heads import heads
from train.report.report_inside import inside
from train.report.report_replies import replies
from train.report.report_written import written

LANGUAGES = {"en": "English", "fr": "French", "es": "Spanish", "de": "German", "zh": "Chinese", "ja": "Japanese"}


def write_report(run: Path) -> Path:
    """Writes `<run>/report.html` and returns its path. A file that the run lacks leaves its section out.

    Raises ValueError if `run` is no directory, or a .json file is damaged; a cut line of a .jsonl is skipped.
    """
    if not run.is_dir():
        raise ValueError(f"report: {run} is no run directory; give the directory that holds metrics.jsonl")
    metrics = read_metrics(run / "metrics.jsonl")
    records = [as_json(record) for record in metrics]
    train = [record._asdict() for record in by_step(metrics, Train)]
    validation = scores_by_step(metrics, SourceRecord, "validation")
    recipe, data, xz, environment = (_json(run / f"{name}.json") for name in ("recipe", "data", "xz", "environment"))
    model, views, talks, judged = (_json(run / f"{name}.json") for name in ("model", "views", "replies", "heads"))
    answers, asked = (_json(run / f"{name}.json") for name in ("written", "task_examples"))
    sources = data.get("sources", {})
    overall = losses_by_step(validation, {name: source["rate"] for name, source in sources.items()})
    name = escape(run.resolve().name)
    page = f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{name}, a gptjax run</title>
<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" content="light dark">
<style>{STYLE}</style></head><body>
<header><h1>{name}</h1>{_headline(run, sources, train, overall)}</header>
{replies(talks)}{heads(judged)}
{written(answers)}
{section("Training", _loss_figure(train, overall) + _bits_figure(validation), "grid")}
{section("What it is trained on", report_tasks.training_curves(train, records))}
{section("Do its tasks pull together?", report_tasks.conflicts(records))}
{section("What goes on inside", inside(records))}
{section("The machinery", "".join(_machinery(train)), "grid thirds")}
{section("What it learned, source by source", _scores(last_scores(metrics), xz))}
{section("What it learned, task by task", report_tasks.scores(train, records))}
{section("What its tasks ask, and what it answers", report_tasks.examples(asked, records))}
{section("What has changed since", "".join(f"<p>{escape(said)}.</p>" for said in other_tasks(recipe)))}
{section("Held-out text read both ways", report_tasks.views(views_tree(views)))}
{section("What it writes", _samples(records_of(run / "samples.jsonl")))}
{section("What it read", _data(sources))}
{section("Settings", _settings("Recipe", recipe_tree(recipe)) + _settings("Model", model))}
{section("Environment", table([(escape(key), escape(str(value))) for key, value in environment.items()], "words"))}
<footer><small>Written by gptjax from the files of the run directory. This page fetches nothing.</small></footer>
</body></html>
"""
    path = run / "report.html"
    write_whole(path, page.encode("utf-8", "replace"))  # half a surrogate pair from JSON becomes "?"
    return path


# Reading


def last_scores(records: Sequence[Record]) -> dict[str, Score]:
    """Source -> the score over most held-out text: the one made after the last step, before that the newest."""
    found = scores_by_step(records, SourceRecord, "validation"), scores_by_step(records, SourceRecord, "final")
    return {name: scores[max(scores)] for of_occasion in found for name, scores in of_occasion.items()}


def losses_by_step(validation: Mapping[str, Mapping[int, Score]], rates: Mapping[str, int]) -> dict[int, float]:
    """Step -> validation loss, nats per token, over all sources; equally weighted if one lacks a rate.

    Only steps at which every source was scored, so that no jump comes from a source that joins or is missing.
    """
    if not validation:
        return {}
    steps = set.intersection(*(set(scores) for scores in validation.values()))
    share = rates if validation.keys() <= rates.keys() else dict.fromkeys(validation, 1)
    return {
        step: overall_loss({name: scores[step].loss for name, scores in validation.items()}, share)
        for step in sorted(steps)
    }


def dotted(tree: Mapping, prefix: str = "") -> Iterable[tuple[str, str]]:
    """(dotted path, value as JSON or bare text) of every leaf."""
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from dotted(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value if isinstance(value, str) else dumps(value, ensure_ascii=False)


def _json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise ValueError(f"report: {path} is not JSON ({error}); delete it to leave its section out") from error


# Sections, each "" when it has nothing to show


def _headline(run: Path, sources: Mapping[str, Mapping], train: Sequence[Mapping], overall: dict[int, float]) -> str:
    cards, what, model = [], "A language model", run / "model.json"
    if model.exists():
        parameters = in_units(load_model_config(model).parameters, WORDS)
        cards.append(("Parameters", parameters, "numbers that training adjusts"))
        what += f" of {parameters} parameters"
    terms = report_tasks.terms_of(train)
    writes = not terms or any(task.generates for task in map(report_tasks.task_of, terms) if task)
    use = (
        "given the beginning of a text, it writes a likely continuation" if writes else "it reads text from both sides"
    )
    what += f": {use}."
    if train:
        cards.append(("Tokens seen", in_units(train[-1]["tokens"], WORDS), f"in {train[-1]['step']:,} steps"))
        seconds, starts = time_spent(run)
        often = f", in {starts} starts" if starts > 1 else ""
        cards.append(("Time", duration(seconds), f"from start to last step{often}"))
    if overall:
        step, loss = list(overall.items())[-1]
        cards.append(("Validation loss", f"{loss:.3f}", f"nats per token, step {step:,}"))
    if sources:
        amount = sum(source["splits"]["train"]["bytes"] for source in sources.values())
        domains = listed(dict.fromkeys(source["domain"] for source in sources.values() if source["domain"]))
        languages = listed(dict.fromkeys(_language(source) for source in sources.values() if source["language"]))
        what += f" It learned from {in_units(amount, BYTES)} of text" + (f" ({domains})" if domains else "")
        what += (f" in {languages}" if languages else "") + "."
    shown = "".join(f"<div><dt>{title}</dt><dd>{value}<small>{note}</small></dd></div>" for title, value, note in cards)
    empty = "" if train else "<p>No training step is recorded yet.</p>"
    return f'<p>{escape(what)}</p>{empty}<dl class="cards">{shown}</dl>'


def _loss_figure(train: Sequence[Mapping], overall: Mapping[int, float]) -> str:
    """Of next words where they are trained, as validation is; else of all tasks together."""
    terms = report_tasks.terms_of(train)
    text = next(filter(report_tasks.models_text, terms), None)
    words = [] if text is None else report_tasks.of_term(train, "tasks", text)
    several = len(terms) > 1

    def paint(axes: Axes) -> None:
        if words:
            paint_curve(axes, words, "value")
        elif train:
            paint_curve(axes, train, "loss")
        axes.plot(list(overall), list(overall.values()), color=SERIES[1], linewidth=1.4, marker="o", markersize=3)

    if not train and not overall:
        return ""
    legend = ({"training": look(0)} if train else {}) | ({"validation": look(1)} if overall else {})
    caption = (
        "Lower is better; when validation stops falling while training still falls, the model has begun to learn its "
        "text by heart. Validation is the mean over sources, each weighted as in training."
    )
    if several:
        caption += " Of several tasks this is " + ("next-word prediction." if words else "the weighted sum.")
    unit = "nats per token" if words or not several else "nats"
    return figure("Loss", draw(WIDE, paint, "step", unit), caption, legend)


def _bits_figure(validation: Mapping[str, Mapping[int, Score]]) -> str:
    if not validation:
        return ""
    lines = {
        name: (np.array(list(scores)), np.array([score.bits_per_byte for score in scores.values()]))
        for name, scores in validation.items()
    }
    caption = (
        "How many bits the model needs for one byte of text it was not trained on: 8 is knowing nothing, and a line "
        "still falling would gain from more training."
    )
    svg = draw(WIDE, lambda axes: paint_lines(axes, lines), "step", "bits per byte")
    return figure("Validation, by source", svg, caption, looks(lines))


def _machinery(train: Sequence[Mapping]) -> Iterable[str]:
    mfu = column(train, "mfu")
    known = np.isfinite(mfu).any()
    used = f" The median step used {np.nanmedian(mfu):.1%} of the device's arithmetic (MFU)." if known else ""
    curves = {
        "learning_rate": ("Learning rate", "learning rate", "How far one step may move the parameters: up in warm-up, "
                          "then down so that they settle."),
        "gradient_norm": ("Gradient norm", "global norm", "How strongly the text pulls at the parameters: a lone spike "
                          "is harmless, a steady climb means that the learning rate is too high."),
        "tokens_per_second": ("Throughput", "tokens per second", "How fast text is read: flat is healthy, a dip is a "
                              f"pause for validation, a checkpoint or slow input.{used}"),
    }  # fmt: skip
    for name, (title, unit, caption) in curves.items():

        def paint(axes: Axes, name: str = name) -> None:
            paint_curve(axes, train, name, smoothed=name != "learning_rate")
            axes.set_ylim(bottom=0)

        if np.isfinite(column(train, name)).any():
            yield figure(title, draw(NARROW, paint, "step", unit), caption)


def _scores(last: Mapping[str, Score], xz: Mapping[str, Mapping[str, float]]) -> str:
    bits = {"model": {name: score.bits_per_byte for name, score in last.items()}}
    for key, title in (("alone", "xz -9 alone"), ("after_training_text", "xz -9 given the training text")):
        if values := {name: xz[name][key] for name in last if name in xz}:
            bits[title] = values
    colours = dict(zip(bits, (SERIES[0], COLOURS["quiet"], SERIES[1]), strict=False))

    def paint(axes: Axes) -> None:
        for i, (title, values) in enumerate(bits.items()):
            places = [list(last).index(name) + 0.26 * (i - (len(bits) - 1) / 2) for name in values]
            bars = axes.barh(places, list(values.values()), height=0.24, color=colours[title])
            axes.bar_label(bars, fmt="{:.2f}", padding=3, fontsize=8)
        names = [short(name, 24) for name in last]
        axes.set_yticks(range(len(last)), names, color=COLOURS["ink"])
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        axes.margins(x=0.1)

    if not last:
        return ""
    rows = []
    for name, score in last.items():
        row = [values.get(name, np.nan) for values in bits.values()]
        shown = ["–" if np.isnan(value) else f"{value:.3f}" for value in row]
        best = np.nanargmin([np.inf, *row]) - 1  # the infinity keeps a row of NaN legal: it bolds nothing
        shown = [f"<b>{cell}</b>" if i == best else cell for i, cell in enumerate(shown)]
        rows.append([escape(name), *shown, f"{score.loss:.3f}", f"{score.perplexity:,.1f}"])
    head = ["source", *(f"{title}<br>bits per byte" for title in bits), "loss<br>nats per token", "perplexity"]
    caption = (
        "Shorter is better: to predict text well and to compress it are the same skill. xz is a strong general-purpose "
        "compressor; given the training text, it has read what the model read."
    )
    verdicts = "".join(verdict(bits["model"], title, values) for title, values in bits.items() if title != "model")
    size = (4.6, 0.7 + len(last) * (0.2 + 0.17 * len(bits)))
    svg = draw(size, paint, "bits per byte of validation text", "")
    return (
        verdicts
        + figure("Bits per byte", svg, caption, {title: Look(colour) for title, colour in colours.items()})
        + table(rows, "numbers", head)
    )


def verdict(model: Mapping[str, float], rival: str, values: Mapping[str, float]) -> str:
    """A paragraph: on which sources the model needs fewer bits than the rival. A tie is not a win."""
    beaten = [name for name in values if model[name] < values[name]]
    others = [name for name in values if name not in beaten]
    if not others:
        where = "on every source: it needs fewer bits for the same text"
    elif beaten:
        where = f"on {len(beaten)} of {len(values)} sources ({listed(beaten)}), not on {listed(others)}"
    else:
        where = "on no source yet"
    return f"<p>The model beats <b>{rival}</b> {escape(where)}.</p>"


def _samples(records: Sequence[Mapping]) -> str:
    latest: dict[str, int] = {}
    for record in records:
        latest[record["source"]] = max(record["step"], latest.get(record["source"], 0))
    shown = {dumps(record): record for record in records if record["step"] == latest[record["source"]]}
    articles = []
    for record in shown.values():  # once each, though a restart may have written some again
        drawn = [f"{name} {record[name]:g}" for name in ("temperature", "top_p") if record.get(name) is not None]
        facts = ", ".join([f"step {record['step']:,}", *drawn])
        prompt = f"<mark>{escape(record['prompt'])}</mark>" if record["prompt"] else ""
        articles.append(
            f'<article class="sample"><h3>{escape(record["source"])} <small>{facts}</small></h3>'
            f'<blockquote lang="{escape(record["language"] or "")}" dir="auto">{prompt}{escape(record["text"])}'
            "</blockquote></article>"
        )
    note = "<p><mark>Marked</mark> text is the prompt that was given; all else the model wrote. None was picked.</p>"
    return f'{note}<div class="grid">{"".join(articles)}</div>' if articles else ""


def _data(sources: Mapping[str, Mapping]) -> str:
    rows, credits = [], []
    for name, source in sources.items():
        train, held = source["splits"]["train"], source["splits"]["validation"]
        about = ", ".join(filter(None, (source["domain"], _language(source))))
        counts = [two(f"{train[unit]:,}", f"{held[unit]:,}") for unit in ("documents", "bytes", "tokens")]
        width = two(*(f"{split['bytes'] / max(1, split['tokens']):.2f}" for split in (train, held)))
        share, duplicates = f"{source['rate'] / RATE_UNIT:.1%}", f"{source['duplicates']:,}"
        rows.append((two(escape(name), escape(about)), *counts, width, duplicates, share))
        citation = f'<small class="citation">{escape(source["citation"] or "")}</small>'
        licence, attribution = escape(source["licence"] or "not stated"), escape(source["attribution"] or "")
        credits.append((escape(name), licence, attribution + citation))
    note = "<p>Of two numbers the upper is text trained on, the lower is validation text, never trained on.</p>"
    head = ("source", "documents", "bytes", "tokens", "bytes per token", "duplicates dropped", "share of rows")
    tables = table(rows, "numbers", head) + table(credits, "words", ("source", "licence", "attribution"))
    return note + tables if rows else ""


def _language(source: Mapping[str, str]) -> str:
    return LANGUAGES.get(source["language"], source["language"] or "")


def _settings(title: str, tree: Mapping) -> str:
    rows = [(escape(path), escape(value)) for path, value in dotted(tree)]
    return f"<details><summary>{title}: {len(rows)} settings</summary>{table(rows, 'words')}</details>" if rows else ""


WORDS = ((1e9, " billion"), (1e6, " million"), (1e3, " thousand"))
BYTES = ((1e9, " GB"), (1e6, " MB"), (1e3, " kB"), (1, " bytes"))


def in_units(count: int, units: Sequence[tuple[float, str]]) -> str:
    """`4.21 million`, `12.3 MB`: three digits and the largest unit that fits."""
    return next((f"{count / size:.3g}{unit}" for size, unit in units if count >= 0.9995 * size), str(count))


def duration(seconds: float) -> str:
    """`2 h 5 min`, `7 min 12 s` or `41 s`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:,} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
