"""Prints training rows as the model gets them.

    python -m data.show [RECIPE] [--first-row 0] [--rows 4] [--FIELD VALUE ...]

The recipe's text is prepared if it is not yet. In colour: input, target, where the loss is, where documents meet.
"""

import dataclasses
import sys
from pathlib import Path

import numpy as np
import tyro
from rich.console import Console
from rich.markup import escape
from rich.text import Text

from gptjax.batch import Batch
from gptjax.tokenizer import Tokenizer

COLOURS = ("cyan", "yellow", "green", "magenta", "blue")  # one a segment, in turn


def show(prepared: Path, T: int, seed: int, horizon: int, first_row: int, rows: int, console: Console) -> None:
    """Prints rows first_row, first_row + 1, ... of the mixture; `horizon` as in `Rows`."""
    from data.pipeline import Rows  # TensorFlow, which a mistake on the command line need not wait for

    tokenizer = Tokenizer.load(prepared / "tokenizer.json")
    source = Rows(prepared, T, seed, horizon)
    row_R = np.arange(first_row, first_row + rows)
    batch = source.batch(row_R)
    console.print(legend())
    for place, row in enumerate(row_R.tolist()):
        segments = int(batch.segment_BT[place].max())
        console.rule(
            f"row {row} · {escape(source.source_of(row))} · {segments} document{'s' if segments > 1 else ''}",
            style="dim",
        )
        console.print(row_text(batch, place, tokenizer))
        console.print(target_text(batch, place, tokenizer))


def legend() -> Text:
    """What the colours and marks mean."""
    return Text.assemble(
        ("each colour is a document", COLOURS[0]),
        ("    the next token is predicted", f"{COLOURS[0]} underline"),
        ("    ▌ a document begins", "bold"),
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
        text.append(visible(tokenizer.token(int(id))), style)
    return text


def target_text(batch: Batch, place: int, tokenizer: Tokenizer) -> Text:
    """What the row's positions must predict; positions without loss are a dot."""
    text = Text("target  ", style="dim")
    for t, id in enumerate(batch.targets_BT[place].tolist()):
        if batch.weights_BT[place][t] > 0:
            text.append(visible(tokenizer.token(id)), COLOURS[int(batch.segment_BT[place][t]) % len(COLOURS)])
        else:
            text.append("·", "dim")
    return text


def visible(token: str) -> str:
    """A token with its line breaks drawn."""
    return token.replace("\n", "⏎\n").replace("\t", "⇥")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Window:
    """Which rows to print."""

    first_row: int = 0  # any row number: row 1000000000 is found as fast as row 0
    rows: int = 4

    def __post_init__(self):
        if self.first_row < 0 or self.rows < 1:
            raise ValueError(f"first_row={self.first_row}, rows={self.rows}: from row 0 on, at least one row")


def main(arguments: list[str]) -> int:
    """Prints rows of a recipe's training text; returns the exit code."""
    from train.__main__ import parse  # the one look upward: this program takes the same recipes as training does

    if arguments and arguments[0] in ("-h", "--help"):
        print(__doc__)
        return 0
    try:
        window, rest = tyro.cli(Window, args=arguments, return_unknown_args=True, add_help=False)
        recipe = parse(rest)
        from data.prepare import prepare

        rows = (recipe.model.T, recipe.seed, recipe.horizon, window.first_row, window.rows)
        show(prepare(recipe.data), *rows, Console())
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
