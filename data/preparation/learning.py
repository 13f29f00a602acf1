"""The tokenizer of a mixture, learnt from a sample of its training text in which a source counts as its rate says."""

import contextlib
import sys
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from etils import epath
from rich.progress import BarColumn, Progress, TimeElapsedColumn

from data.preparation.holdout import Plan
from data.preparation.workitems import Item, RunAll, sample, sampled, save_bytes
from data.rows.mixture import RATE_UNIT, mixture_rates
from data.spec import DataSpec
from gptjax.command.console import make_console
from gptjax.text.tokenizer import Tokenizer, ready_made, train_bpe, train_characters

SAMPLE = 10_000_000  # bytes of training text from which the tokenizer learns


def write_tokenizer(
    path: epath.Path,
    spec: DataSpec,
    learnt: Tokenizer | None,
    items: Mapping[str, Sequence[Item]],
    budgets: Mapping[str, tuple[int, int]],
    run_all: RunAll,
) -> None:
    """Writes the tokenizer of a spec, if it is not there yet: `learnt` before, or now from its text, or ready made.

    A source that is short for its rate is learnt from several times, so that its words count as the rate says.
    """
    if path.exists():
        return
    if learnt is not None:
        tokenizer = learnt
    elif spec.learns:
        run_all("sampling", sample, [item for of_source in items.values() for item in of_source], None)
        times = {name: max(1, round(budget / available)) for name, (budget, available) in budgets.items()}
        texts = ((name, text) for name, of_source in items.items() for item in of_source for text in sampled(item))
        with _learning(spec):
            if spec.tokenizer == "bpe":
                tokenizer = train_bpe((text for name, text in texts for _ in range(times[name])), spec.vocabulary)
            else:
                tokenizer = train_characters((text for _, text in texts), spec.vocabulary)
    else:
        tokenizer = ready_made(spec.tokenizer)
    save_bytes(path, tokenizer.content)


@contextlib.contextmanager
def _learning(spec: DataSpec) -> Iterator[None]:
    """Shows that a tokenizer is learnt, and for how long: nobody knows when it will be done."""
    console = make_console(sys.stderr)
    said = f"learning the tokenizer ({spec.tokenizer}, {spec.vocabulary:,} tokens at most)"
    if not console.is_terminal:
        print(said, file=sys.stderr)
    columns = ("{task.description}", BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        progress.add_task(said, total=None)
        yield


def budgets_of(spec: DataSpec, plans: Mapping[str, Plan]) -> dict[str, tuple[int, int]]:
    """Source -> (bytes that the tokenizer learns from, `SAMPLE` at most in all; bytes of training text)."""
    available = {name: int(plan.bytes_J[plan.in_train_J].sum()) for name, plan in plans.items()}
    rates = mixture_rates(spec.mixture, dict(spec.shares), available, horizon=sum(available.values()))
    total = min(SAMPLE, max(available[name] * RATE_UNIT // rate for name, rate in rates.items()))
    return {name: (max(1, total * rates[name] // RATE_UNIT), available[name]) for name in plans}


def sample_limits(plan: Plan, budget: int) -> np.ndarray:
    """How many bytes of each document the tokenizer learns from: the first by hash, until there are enough."""
    order = np.argsort(plan.hash_J, kind="stable")
    order = order[plan.in_train_J[order]]
    before = plan.bytes_J[order].cumsum() - plan.bytes_J[order]
    limit_J = np.zeros(len(plan.hash_J), np.int64)
    limit_J[order] = np.maximum(0, budget - before)
    return limit_J
