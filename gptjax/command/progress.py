"""A progress bar for work that takes long, on a terminal; elsewhere nothing."""

import contextlib
import sys
from collections.abc import Callable, Iterable, Iterator

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from gptjax.command.console import make_console

TELL_EVERY = 100  # items


@contextlib.contextmanager
def bar(what: str) -> Iterator[Callable[[int, int | None], None]]:
    """Yields the function to tell (done, of how many)."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    console = make_console(sys.stderr)
    with Progress(*columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task(what, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


def track[Item](items: Iterable[Item], what: str, total: int | None = None) -> Iterator[Item]:
    """The items, one by one, under a bar; `total` None = nobody knows how many."""
    with bar(what) as tell:
        for done, item in enumerate(items):
            if done % TELL_EVERY == 0:
                tell(done, total)
            yield item
