"""Prints training rows as the model gets them.

    python -m train.lab.show [RECIPE] [--first-row 0] [--rows 4] [--task position] [--FIELD VALUE ...]

The recipe's text is prepared if it is not yet. In colour: input, target, where the loss is, where segments meet, what
is seen from both sides, and the classes of whole segments.
"""

import dataclasses
import sys
from collections.abc import Mapping

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.text import Text

from data.rows.rows import Rows
from gptjax.batch import Batch, ClassHead
from gptjax.command.console import make_console, print_any_text
from gptjax.command.options import print_mistake, take
from gptjax.spelling import did_you_mean
from gptjax.text.tokenizer import Tokenizer

PROGRAM = "python -m train.lab.show"
SEARCHED = 65_536  # rows among which those of a task are looked for
COLOURS = ("cyan", "yellow", "green", "magenta", "blue")  # one a segment, in turn


def show(rows: Rows, first_row: int, count: int, task: str | None, console: Console) -> None:
    """Prints `count` rows from first_row on; with a task, the first so many that are its own."""
    tokenizer, names = rows.corpus.tokenizer, list(rows.builder.tasks)
    row_R = np.arange(first_row, first_row + count)
    if task is not None:
        if task not in rows.builder.heads_of:
            raise ValueError(f"task={task!r}{did_you_mean(task, rows.builder.heads_of)}")
        row_R = np.arange(first_row, first_row + SEARCHED)
        row_R = row_R[rows.tasks_of(row_R) == names.index(task)][:count]
    if not len(row_R):
        raise ValueError(f"task={task!r}: none of the {SEARCHED:,} rows from {first_row} on; give a later --first-row")
    batch, task_R = rows.batch(row_R), rows.tasks_of(row_R)
    console.print(legend())
    for place, row in enumerate(row_R.tolist()):
        segments = int(batch.segment_BT[place].max())
        console.print(
            f"[dim]──[/] row {row} · {escape(rows.source_of(row))} · [bold]{names[task_R[place]]}[/] · {segments} "
            f"segment{'' if segments == 1 else 's'} [dim]──[/]",
            highlight=False,
        )
        console.print(row_text(batch, place, tokenizer))
        asks = rows.builder.tasks[names[task_R[place]]].token_head
        head = None if asks is None else rows.builder.heads[asks]
        console.print(target_text(batch, place, tokenizer, head))
        if classes := class_text(batch, place, rows.builder.heads):
            console.print(classes)


def legend() -> Text:
    """What the colours and marks mean."""
    return Text.assemble(
        ("each colour is a segment", COLOURS[0]),
        ("    something is predicted here", f"{COLOURS[0]} underline"),
        ("    ▌ a segment begins", "bold"),
        ("    seen from both sides", f"{COLOURS[0]} italic"),
        ("    · nothing\n", "dim"),
    )


def row_text(batch: Batch, place: int, tokenizer: Tokenizer) -> Text:
    """Input tokens of one row: colour by document, underlined where a loss is taken."""
    text = Text("input   ", style="dim")
    for t, id in enumerate(batch.tokens_BT[place]):
        segment = int(batch.segment_BT[place][t])
        if segment == 0:
            text.append("·", "dim")
            continue
        if t == 0 or segment != batch.segment_BT[place][t - 1]:
            text.append("▌", "bold")
        style = COLOURS[segment % len(COLOURS)] + (" underline" if batch.weights_BT[place][t] > 0 else "")
        style += " italic" if batch.visible_BT[place][t] else ""
        text.append(visible(tokenizer.token(int(id))), style)
    return text


def target_text(batch: Batch, place: int, tokenizer: Tokenizer, head: ClassHead | None) -> Text:
    """What the row's positions must predict: tokens, or classes of the task's head; a dot is a place without loss."""
    text = Text("target  ", style="dim")
    for t, id in enumerate(batch.targets_BT[place].tolist()):
        if batch.weights_BT[place][t] > 0:
            shown = visible(tokenizer.token(id)) if head is None else f"{head.classes[id]} "
            text.append(shown, COLOURS[int(batch.segment_BT[place][t]) % len(COLOURS)])
        else:
            text.append("·", "dim")
    return text


def class_text(batch: Batch, place: int, heads: Mapping[str, ClassHead]) -> Text | None:
    """The classes of the row's segments; None if it has none."""
    text = Text("class   ", style="dim")
    for slot in np.flatnonzero(batch.label_weight_BQ[place]):
        segment = int(batch.segment_BT[place][batch.at_BQ[place][slot]])
        head = list(heads.values())[batch.head_BQ[place][slot]]
        text.append(f"{head.name}: {head.classes[batch.label_BQ[place][slot]]}   ", COLOURS[segment % len(COLOURS)])
    return text if batch.label_weight_BQ[place].any() else None


def visible(token: str) -> str:
    """A token with its line breaks drawn."""
    return token.replace("\n", "⏎\n").replace("\t", "⇥")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Window:
    """Which rows to print."""

    first_row: int = 0  # any row number: row 1000000000 is found as fast as row 0
    rows: int = 4  # how many
    task: str | None = None  # only rows of this task

    def __post_init__(self):
        if self.first_row < 0 or self.rows < 1:
            raise ValueError(f"first_row={self.first_row}, rows={self.rows}: from row 0 on, at least one row")


def main(arguments: list[str]) -> int:
    """Prints rows of a recipe's training text; returns the exit code."""
    print_any_text()
    # the one look upward: this program takes the same recipes as training does
    from train.assemble import rows_of
    from train.recipe_words import parse

    try:
        window, rest = take(Window, arguments)
        recipe = parse(rest, PROGRAM, (Window,), about=__doc__)
        from data.prepare import prepare

        show(rows_of(recipe, prepare(recipe.data)), window.first_row, window.rows, window.task, make_console())
    except (ValueError, OSError) as error:
        return print_mistake(error)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
