"""Several experiments as one: parts that ask the same of other data, and arms that are no runs, in one table."""

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path

from rich.console import Console

from train.lab.experiment import Experiment, conduct
from train.lab.outcome import ArmOutcome, Outcome
from train.recipe import Recipe


@dataclasses.dataclass(frozen=True, kw_only=True)
class Series:
    """Parts with arms of the same names, and the rule by which something follows from all of them."""

    question: str
    # by what stands before their figures; one that needs the runs of those before it is made when these are done, of
    # the folder that they lie in
    parts: Mapping[str, Experiment | Callable[[Path], Experiment]]
    before: Callable[[], None] = lambda: None  # makes what the parts read
    # of a part, the arms that need no training: their figures, a mapping for every seed
    beside: Callable[[str], Mapping[str, ArmOutcome]] = lambda part: {}
    decide: Callable[[Outcome], str]

    @property
    def bases(self) -> list[Recipe]:
        """Of the parts that are there before anything has run."""
        return [part.base for part in self.parts.values() if isinstance(part, Experiment)]


def conduct_any(made: Experiment | Series, folder: Path, console: Console, again: bool = False) -> Outcome:
    """Conducts one experiment or several."""
    whole = conduct_series if isinstance(made, Series) else conduct
    return whole(made, folder, console, again)  # pyright: ignore[reportArgumentType]


def conduct_series(series: Series, folder: Path, console: Console, again: bool = False) -> Outcome:
    """Conducts every part; figures are told by part, arms over all parts that have them."""
    series.before()
    arms: dict[str, list[tuple[str, ArmOutcome]]] = defaultdict(list)
    minutes = 0.0
    for name, part in series.parts.items():
        console.print(f"\n{name}", highlight=False, markup=False)
        outcome = conduct(part if isinstance(part, Experiment) else part(folder), folder, console, again)
        minutes += outcome.cpu_minutes
        for arm, found in {**outcome.arms, **series.beside(name)}.items():
            arms[arm].append((name, found))
    joined = {arm: _joined(found) for arm, found in arms.items()}
    outcome = Outcome(question=series.question, arms=joined, cpu_minutes=minutes)
    return dataclasses.replace(outcome, conclusion=series.decide(outcome))


def _joined(found: list[tuple[str, ArmOutcome]]) -> ArmOutcome:
    """One arm of all parts that have it."""
    seeds: list[dict[str, float]] = [{} for _ in found[0][1].seeds]
    for part, arm in found:
        for figures, own in zip(seeds, arm.seeds, strict=True):
            figures.update({f"{part}: {figure}": value for figure, value in own.items()})
    return ArmOutcome(
        setting="; ".join(f"{part} {arm.setting}" for part, arm in found),
        tried={f"{part} {setting}": value for part, arm in found for setting, value in arm.tried.items()},
        seeds=tuple(seeds),
    )
