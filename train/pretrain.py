"""Pretraining: a run, and what shows what its model has learnt."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from train.recipe import Recipe
from train.report.finish import PRETRAINED, Hook
from train.run import run
from train.supervision.signals import Signals


def pretrain(
    recipe: Recipe,
    console: Console,
    started: float | None = None,
    signals: Signals | None = None,
    *,
    accept_changes: bool = False,
    hooks: Sequence[Hook] = PRETRAINED,
) -> Path:
    """`train.run.run` with samples, tables and the report after it, or with fewer `hooks`."""
    return run(recipe, hooks, console=console, started=started, signals=signals, accept_changes=accept_changes)
