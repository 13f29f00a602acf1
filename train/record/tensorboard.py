"""Curves of a run for TensorBoard, of which training is independent: what cannot be written is told once, and lost."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import tensorflow as tf


class Curves:
    """A file of TensorBoard's of a run that goes on after `step`, 0 for a new one.

    TensorBoard drops what earlier starts wrote of that step and later ones.
    """

    def __init__(self, folder: Path, step: int, warn: Callable[[str], None]):
        self._warn, self._lost = warn, False
        _await_new_second(folder)
        self._writer = tf.raw_ops.SummaryWriter(shared_name="", container="")
        opening = {"logdir": str(folder), "max_queue": 10, "flush_millis": 120_000, "filename_suffix": ".v2"}
        self._safely(lambda: tf.raw_ops.CreateSummaryFileWriter(writer=self._writer, **opening))
        self._add(step, session_log={"status": tf.compat.v1.SessionLog.START})

    def draw(self, record: Mapping[str, Any]) -> None:
        """The numbers of a line of metrics.jsonl become curves named `kind/value`, of a source or a task
        `kind/source/value`, and those of a dict `kind/value/key`."""
        values = {name: value for name, value in record.items() if name not in ("kind", "step")}
        group = "/".join([record["kind"], *(values[key] for key in ("source", "task") if key in values)])
        numbers = {name: value for name, value in values.items() if not isinstance(value, dict)}
        for name, value in values.items():
            numbers |= {f"{name}/{key}": one for key, one in value.items()} if isinstance(value, dict) else {}
        points = [
            {"tag": f"{group}/{name}", "simple_value": value}
            for name, value in numbers.items()
            if isinstance(value, int | float)
        ]
        self._add(record["step"], summary={"value": points})

    def close(self) -> None:
        self._safely(lambda: tf.raw_ops.CloseSummaryWriter(writer=self._writer))

    def _add(self, step: int, **what: Any) -> None:
        """One event, by its fields. A session_log that starts makes TensorBoard forget that step and later ones."""
        event = tf.compat.v1.Event(step=step, wall_time=float(tf.timestamp()), **what).SerializeToString()
        self._safely(lambda: tf.raw_ops.ImportEvent(writer=self._writer, event=event))

    def _safely(self, act: Callable[[], object]) -> None:
        if self._lost:
            return
        try:
            act()
        except (OSError, tf.errors.OpError) as error:
            self._lost = True
            self._warn(f"TensorBoard's events cannot be written ({error}): training goes on without them")


def _await_new_second(folder: Path) -> None:
    """Returns in a second in which no file was begun: TensorBoard reads files by name, which begins with that second.

    Of a younger file that sorted before an older one, what both say would be taken from the older.
    """
    while any(folder.glob(f"events.out.tfevents.{int(tf.timestamp()):010}.*")):
        time.sleep(0.05)
