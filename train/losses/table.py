"""The table of losses: which kinds there are, by the name that a task gives (`Task.loss`). One line a kind."""

import math
from collections.abc import Mapping
from typing import Any

from gptjax.spelling import did_you_mean
from train.losses.classes import Classes
from train.losses.labels import Labels
from train.losses.loss import Loss
from train.losses.pairs import Pairs
from train.losses.tokens import Tokens
from train.losses.values import Values

LOSSES: dict[str, Loss] = {
    "tokens": Tokens(),
    "classes": Classes(),
    "pairs": Pairs(),
    "labels": Labels(),
    "values": Values(),
}


def loss_named(name: str) -> Loss:
    """Raises ValueError for a name that the table lacks."""
    if name not in LOSSES:
        raise ValueError(f"Task.loss={name!r}{did_you_mean(name, LOSSES)}; train/losses/table.py lists them")
    return LOSSES[name]


def loss_of_record(record: Mapping[str, Any]) -> Loss | None:
    """The kind of loss that a record of metrics.jsonl is of; None of one that the table has no more.

    Records of older versions do not name it: their keys tell.
    """
    if "loss_kind" in record:
        return LOSSES.get(record["loss_kind"])
    return next((loss for loss in LOSSES.values() if loss.wrote(record)), None)


def measure_texts(record: Mapping[str, Any]) -> tuple[str, str]:
    """(the measure, that of the baseline) of such a record, for people; "" of what is not known."""
    loss = loss_of_record(record)
    if loss is None:
        return "", ""
    measure, baseline = (record.get(key, math.nan) for key in (loss.measure.key, f"baseline_{loss.measure.key}"))
    return format(measure, loss.measure.form), format(baseline, loss.measure.form)
