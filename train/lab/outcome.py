"""What an experiment found: figures of its runs, paired differences with their intervals, and the table to paste."""

import dataclasses
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Group
from rich.markup import escape
from rich.table import Table
from scipy import stats

from gptjax.files.plain_json import dumps
from train.losses.table import loss_of_record
from train.record.metrics import SourceRecord, TaskRecord, overall_loss, read_metrics, scores_by_step

DECIDES = (
    "causal loss"  # nats a token of held-out text, sources weighted as they are trained on: what settings are tuned by
)
BEYOND = "beyond its baseline"
HEADINGS = ("figure", "arm", "mean", "sd", "difference", "95 % interval", "could have seen")


def figures(run: Path) -> dict[str, float]:
    """What a finished run scored on held-out text: losses in nats, measures, and how far beyond a baseline they are."""
    records = read_metrics(run / "metrics.jsonl")
    sources = json.loads((run / "data.json").read_text(encoding="utf-8"))["sources"]
    rates = {name: source["rate"] for name, source in sources.items()}
    final = {name: _last(scores).loss for name, scores in scores_by_step(records, SourceRecord, "final").items()}
    found = {DECIDES: overall_loss(final, rates)} if final else {}
    if len(final) > 1:
        found |= {f"{DECIDES}, {source}": loss for source, loss in final.items()}
    on_the_way: dict[int, dict[str, float]] = defaultdict(dict)
    for source, scores in scores_by_step(records, SourceRecord, "validation").items():
        for step, score in scores.items():
            on_the_way[step][source] = score.loss
    if len(on_the_way) > 1:
        curve = [overall_loss(losses, rates) for _, losses in sorted(on_the_way.items())]
        found[f"rise of the {DECIDES} from its lowest"] = curve[-1] - min(curve)
    for task, scores in scores_by_step(records, TaskRecord, "final").items():
        score = _last(scores)
        found[f"{task} loss"] = score.loss
        if (loss := loss_of_record(score.measured)) is not None:
            found[f"{task} {loss.measure.key}"] = score.measured[loss.measure.key]
            found[f"{task} {BEYOND}"] = loss.ahead(score.measured)
    return found


def _last(scores: Mapping[int, Any]) -> Any:
    """The score of the highest step."""
    return scores[max(scores)]


class Paired(NamedTuple):
    """A difference between two arms, over pairs of runs that share a seed."""

    difference: float
    low: float  # ends of the 95 % interval of Student's t
    high: float
    visible: float  # a true difference of this size would have been found, at 5 % two-sided, four times out of five


def paired(first: Sequence[float], second: Sequence[float]) -> Paired:
    """The mean of second - first. Raises ValueError for fewer than two pairs.

    Source of `visible`: Bloom 1995, "Minimum detectable effects", Evaluation Review 19(5).
    """
    if len(first) != len(second) or len(first) < 2:
        raise ValueError(f"paired: {len(first)} and {len(second)} runs; needed are as many of both, two at least")
    d_S = np.subtract(second, first)
    mean, error, freedom = float(d_S.mean()), float(stats.sem(d_S)), len(d_S) - 1
    reach, power = (float(stats.t.ppf(share, freedom)) for share in (0.975, 0.8))
    return Paired(mean, mean - reach * error, mean + reach * error, (reach + power) * error)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ArmOutcome:
    """One arm, tuned and then run for every seed."""

    setting: str
    tried: Mapping[str, float]  # setting -> the figure that decides, at half length
    seeds: tuple[Mapping[str, float], ...]  # figures of each run, in the order of the seeds

    def of(self, figure: str) -> list[float]:
        return [found[figure] for found in self.seeds]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """All arms of an experiment; the first is what the others are compared with."""

    question: str
    arms: Mapping[str, ArmOutcome]
    cpu_minutes: float  # user and system time of all its runs, those that other experiments share included
    conclusion: str | None = None  # by the rule of the experiment; None = not drawn yet

    @property
    def first(self) -> str:
        return next(iter(self.arms))

    @property
    def others(self) -> list[str]:
        return [arm for arm in self.arms if arm != self.first]

    def has(self, arm: str, figure: str) -> bool:
        return all(figure in found for found in self.arms[arm].seeds)

    def mean(self, arm: str, figure: str) -> float:
        return float(np.mean(self.arms[arm].of(figure)))

    def sd(self, arm: str, figure: str) -> float:
        return float(np.std(self.arms[arm].of(figure), ddof=1))

    def difference(self, arm: str, figure: str) -> Paired:
        """From the first arm to this one."""
        return paired(self.arms[self.first].of(figure), self.arms[arm].of(figure))

    def change(self, arm: str, figure: str) -> float:
        """The same as a share of the first arm's mean."""
        return self.difference(arm, figure).difference / self.mean(self.first, figure)

    def rows(self) -> list[tuple[str, ...]]:
        """Cells under HEADINGS, figure by figure."""
        found = list(dict.fromkeys(name for arm in self.arms.values() for name in arm.seeds[0]))
        rows = []
        for figure in found:
            for arm in (arm for arm in self.arms if self.has(arm, figure)):
                cells = (figure, arm, f"{self.mean(arm, figure):.4f}", f"{self.sd(arm, figure):.4f}")
                if arm == self.first or not self.has(self.first, figure):
                    rows.append((*cells, "", "", ""))
                    continue
                d = self.difference(arm, figure)
                rows.append((*cells, f"{d.difference:+.4f}", f"{d.low:+.4f} to {d.high:+.4f}", f"{d.visible:.4f}"))
        return rows

    def settings(self) -> list[str]:
        """A line an arm: what it was run with, and what that was chosen from."""
        return [
            f"{name}: {arm.setting}"
            + (", of " if arm.tried else "")
            + ", ".join(f"{tried} {loss:.4f}" for tried, loss in arm.tried.items())
            for name, arm in self.arms.items()
        ]

    def last_words(self) -> list[str]:
        seeds = len(self.arms[self.first].seeds)
        about = f"{seeds} seeds an arm, {self.cpu_minutes:.1f} CPU minutes for all runs, tuning included."
        return [about] if self.conclusion is None else [about, self.conclusion]

    def table(self) -> Group:
        """For people."""
        table = Table()
        for heading in HEADINGS:
            table.add_column(heading, justify="left" if heading in ("figure", "arm") else "right")
        told = None
        for figure, *cells in self.rows():
            table.add_row("" if figure == told else figure, *cells)
            told = figure
        return Group(escape(self.question), *map(escape, self.settings()), table, *map(escape, self.last_words()))

    def markdown(self) -> str:
        """The same for docs/log.md."""
        lines = [self.question, "", *(f"- {line}" for line in self.settings()), ""]
        lines += [f"| {' | '.join(cells)} |" for cells in (HEADINGS, ["---"] * len(HEADINGS), *self.rows())]
        return "\n".join([*lines, "", *self.last_words()]) + "\n"

    def as_json(self) -> dict[str, Any]:
        differences = {
            arm: {
                figure: self.difference(arm, figure)._asdict()
                for figure in self.arms[arm].seeds[0]
                if self.has(arm, figure) and self.has(self.first, figure)
            }
            for arm in self.others
        }
        return {**dataclasses.asdict(self), "differences": differences}

    def keep(self, folder: Path) -> None:
        """Writes results.json and results.md."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "results.json").write_text(dumps(self.as_json(), indent=1) + "\n", encoding="utf-8")
        (folder / "results.md").write_text(self.markdown(), encoding="utf-8")
