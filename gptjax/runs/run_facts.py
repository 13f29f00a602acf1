"""What a run's own files say of how its model came to be. Does not import JAX.

A file that is missing, damaged or of another kind says nothing: whoever asks gets the rest.
"""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from gptjax.files.bounded_files import read_json
from gptjax.files.plain_json import loads


class Source(NamedTuple):
    """A corpus that was read, as `data.json` has it; None = it does not say."""

    name: str
    licence: str | None
    language: str | None
    documents: int | None  # to learn from
    tokens: int | None
    warning: str | None


class HeldOut(NamedTuple):
    """How well a source's held-out text is foretold."""

    source: str
    targets: int
    loss: float  # nats a token
    perplexity: float
    bits_per_byte: float | None


class HeadFigure(NamedTuple):
    """How right an output head is on held-out texts."""

    head: str
    items: int
    figure: str  # a name of gptjax.evaluation.head_figures
    value: float
    interval: tuple[float, float] | None  # of 95 %


class RunFacts(NamedTuple):
    """Of one checkpoint of a run."""

    name: str  # of its directory
    from_scratch: bool = False  # whether it is known to have begun with no other model
    base: str | None = None  # the name of what a fine-tuning began with
    tasks: tuple[str, ...] = ()  # that had rows
    sources: tuple[Source, ...] = ()
    tokens: int | None = None  # read in training, those of a base not counted
    held_out: tuple[HeldOut, ...] = ()
    heads: tuple[HeadFigure, ...] = ()


def run_facts(run: Path, step: int, *, averaged: bool) -> RunFacts:
    """`averaged`: of the moving average of the weights, whose figures are others."""
    recipe, data = _fields(run / "recipe.json"), _fields(run / "data.json")
    objectives, base, sources = _part(recipe, "objectives"), recipe.get("base"), _part(data, "sources")
    rows = objectives.get("rows")
    records = list(_records(run / "metrics.jsonl"))
    return RunFacts(
        name=run.resolve().name,
        from_scratch=bool(recipe) and base is None,
        base=Path(base).name if isinstance(base, str) else None,
        tasks=tuple(dict.fromkeys(str(row).partition("=")[0] for row in rows)) if isinstance(rows, list) else (),
        sources=tuple(_source(name, source) for name, source in sources.items() if isinstance(source, dict)),
        tokens=_tokens(records, step),
        held_out=tuple(_held_out(records, step, averaged)),
        heads=() if averaged else tuple(_heads(_fields(run / "heads.json"), step)),
    )


def _source(name: str, fields: Mapping[str, Any]) -> Source:
    train = _part(_part(fields, "splits"), "train")
    licence, language, warning = (
        value if isinstance(value := fields.get(key), str) else None for key in ("licence", "language", "warning")
    )
    documents, tokens = (value if type(value := train.get(key)) is int else None for key in ("documents", "tokens"))
    return Source(name, licence, language, documents, tokens, warning)


def _tokens(records: list[dict[str, Any]], step: int) -> int | None:
    """Those up to `step`: by its own record, or where all steps read as many."""
    read = {
        one["step"]: one["tokens"]
        for one in records
        if one.get("kind") == "train" and type(one.get("tokens")) is int and one["step"] > 0
    }
    if step in read:
        return read[step]
    each = {tokens / at for at, tokens in read.items()}
    return round(each.pop() * step) if len(each) == 1 else None


def _held_out(records: list[dict[str, Any]], step: int, averaged: bool) -> Iterator[HeldOut]:
    """Of each source the measurement over most text that was made at this step."""
    for occasion in ("final", "validation"):
        kind = f"{occasion}{'_ema' * averaged}"
        found = {str(one.get("source")): one for one in records if (one.get("kind"), one["step"]) == (kind, step)}
        for source, one in found.items():
            if all(isinstance(one.get(name), int | float) for name in ("targets", "loss", "perplexity")):
                yield HeldOut(source, one["targets"], one["loss"], one["perplexity"], one.get("bits_per_byte"))
        if found:
            return


def _heads(found: Mapping[str, Any], step: int) -> Iterator[HeadFigure]:
    """Of `heads.json`, where it was measured at this step."""
    items = found.get("items")
    if found.get("step") != step or type(items) is not int:
        return
    for name, value in _part(_part(found, "figures"), "after").items():
        low, high = _part(found, "interval").get(name) or (None, None)
        if isinstance(value, int | float):
            interval = None if low is None or high is None else (low, high)
            yield HeadFigure(str(found.get("head")), items, name, value, interval)


def _part(fields: Mapping[str, Any], name: str) -> dict[str, Any]:
    value = fields.get(name)
    return value if isinstance(value, dict) else {}


def _fields(path: Path) -> dict[str, Any]:
    with contextlib.suppress(ValueError):
        return read_json(path)
    return {}


def _records(path: Path) -> Iterator[dict[str, Any]]:
    """Lines that are records of a step; a killed run leaves half a line."""
    if not path.is_file():
        return
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            with contextlib.suppress(ValueError):
                record = loads(line)
                if isinstance(record, dict) and type(record.get("step")) is int:
                    yield record
