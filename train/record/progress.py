"""How far a run is: all that its manifests keep beside the state, and that a resumed run goes on with."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from train.losses.conflict import Conflicts
from train.objectives import Term
from train.record.ledger import Entry
from train.stopping import Health


@dataclasses.dataclass(kw_only=True)
class Progress:
    """What a run has read, how it fares, and the losses that its next record is the mean of."""

    rows: int = 0  # read since step 0
    health: Health = dataclasses.field(default_factory=Health)
    conflicts: Conflicts = dataclasses.field(default_factory=Conflicts)
    losses: list[float] = dataclasses.field(default_factory=list)  # of steps since the last record
    terms: dict[str, Sequence[float]] = dataclasses.field(default_factory=dict)  # of each: nats and targets since then
    newest: tuple[int, float] | None = None  # step and loss of this start's newest measurement

    @classmethod
    def of(cls, notes: Mapping[str, Any]) -> "Progress":
        """That of a manifest."""
        health, conflicts = Health(**notes["health"]), Conflicts(**notes["conflicts"])
        return cls(rows=notes["rows"], health=health, conflicts=conflicts, losses=notes["losses"], terms=notes["terms"])

    def notes(self, step: int) -> dict[str, Any]:
        """What the manifest of a step keeps, whatever follows. `loss`, for people, is the step's own where measured."""
        loss = self.newest[1] if self.newest is not None and self.newest[0] == step else self.health.held_out
        return {
            "rows": self.rows, "loss": loss,
            "health": self.health.as_json(), "losses": list(self.losses), "terms": dict(self.terms),
            "conflicts": self.conflicts.as_json(),
        }  # fmt: skip

    @property
    def best_step(self) -> int | None:
        """The step to keep: of those that are measured by schedule the best; of a run too short to have one, its end.

        What is measured only because a run ends counts no further: a run that was never stopped would not have it.
        """
        if self.health.best_step is None and self.newest is not None:
            return self.newest[0]
        return self.health.best_step

    def note_step(self, entry: Entry, terms: Sequence[Term], found: Mapping[str, Any]) -> None:
        """Takes in a finished step: its rows, and where it counts, its losses."""
        self.rows += entry.rows
        if entry.skipped:
            return
        self.losses.append(entry.loss)
        for term in terms:
            nats, targets = self.terms.get(term.name, (0.0, 0.0))
            weight = float(found[f"weight/{term.name}"])
            self.terms[term.name] = nats + weight * float(found[f"loss/{term.name}"]), targets + weight

    def take_losses(self) -> tuple[float, dict[str, float]] | None:
        """(mean loss of the steps since the last call, nats a target of each term); None where none counted."""
        if not self.losses:
            return None
        loss = float(np.mean(self.losses))
        tasks = {name: nats / targets for name, (nats, targets) in self.terms.items() if targets}
        self.losses, self.terms = [], {}
        return loss, tasks
