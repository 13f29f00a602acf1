"""Where each document of all sources goes, once it was measured: training, validation, or neither.

The arithmetic is that of data.preparation.holdout; what needs the text itself is asked of the work items.
"""

import bisect
import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from etils import epath

from data.preparation import overlap
from data.preparation.holdout import VALIDATION, Plan, sentence_end
from data.preparation.workitems import (
    Item,
    RunAll,
    compare,
    compared,
    document_of,
    held_out_end,
    measured,
    save_plan,
    save_sought,
)  # fmt: skip
from gptjax.text.source_files import ours_around


class Measured(NamedTuple):
    """What was measured of a source."""

    rows_J: np.ndarray  # MEASURED
    label_JF: np.ndarray  # i32: class in each label field; -1 = none
    classes: dict[str, list[str]]  # field -> its classes, sorted; held-out documents have a say too
    stops: list[int]  # where each item's documents begin, and where the last one's end


def measured_of(items: Sequence[Item]) -> Measured:
    kept = [measured(item) for item in items]
    fields = items[0].labels
    classes = {field: sorted({name for _, _, names in kept for name in names[f]}) for f, field in enumerate(fields)}
    numbers = [{name: number for number, name in enumerate(names)} for names in classes.values()]
    stops = [0, *itertools.accumulate(len(rows) for rows, _, _ in kept)]
    label_JF = np.empty((stops[-1], len(fields)), np.int32)
    for (_, codes, names), (first, stop) in zip(kept, itertools.pairwise(stops), strict=True):
        for f in range(len(fields)):
            of_code = np.array([*(numbers[f][name] for name in names[f]), -1], np.int32)
            label_JF[first:stop, f] = of_code[codes[:, f]]  # code -1, no label, finds the -1 at the end
    return Measured(np.concatenate([rows for rows, _, _ in kept]), label_JF, classes, stops)


def cut_at_an_end(plan: Plan, items: Sequence[Item], stops: Sequence[int]) -> Plan:
    """The plan with the document that it cuts in two cut where a paragraph, sentence or word ends."""
    if plan.cut is None:
        return plan
    document, at = plan.cut
    of = bisect.bisect_right(stops, document) - 1
    text = document_of(items[of], document - stops[of]).text
    return dataclasses.replace(plan, cut=(document, sentence_end(text, at)))


def without_held_out(
    work: epath.Path,
    items: Mapping[str, Sequence[Item]],
    tables: Mapping[str, Measured],
    plans: Mapping[str, Plan],
    run_all: RunAll,
) -> dict[str, Plan]:
    """The plans without the training documents that hold a held-out document word for word.

    Raises ValueError where those were written by us, or are all of a source.
    """
    sought = []
    for name, plan in plans.items():
        of_items = [plan.sliced(first, stop) for first, stop in itertools.pairwise(tables[name].stops)]
        sought.append(tables[name].rows_J["print"][plan.split_J == VALIDATION])
        for item, of_item in zip(items[name], of_items, strict=True):
            save_plan(item, of_item, np.zeros(len(of_item.hash_J), np.int64))
            if of_item.cut is not None:
                words = overlap.words_of(held_out_end(item, of_item))
                sought.append(np.array([overlap.fingerprint(words)], overlap.PRINT))
    save_sought(work, np.concatenate(sought))
    every_item = [item for of_source in items.values() for item in of_source]
    run_all("comparing", compare, every_item, sum(int(plan.bytes_J[plan.in_train_J].sum()) for plan in plans.values()))
    found = {}
    for name, plan in plans.items():
        of_items = [compared(item) for item in items[name]]
        for place in (place for _, places in of_items for place in places if name.startswith("files:")):
            if what := ours_around(Path(place)):
                raise ValueError(
                    f"data.sources: {name!r}: {place} lies in {what}, which gptjax wrote, and holds documents word for "
                    "word that are to be held out; leave it out of the sources"
                )
        firsts = zip(of_items, tables[name].stops, strict=False)
        found[name] = plan.without(np.concatenate([numbers + first for (numbers, _), first in firsts]))
        if plan.in_train_J.any() and not found[name].in_train_J.any():
            raise ValueError(
                f"data.sources: {name!r}: each of its {int(plan.in_train_J.sum()):,} training documents holds a "
                "held-out document word for word, and none is left to train on; leave the source out"
            )
    return found
