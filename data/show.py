"""Prints training rows as the model gets them: `python -m data.show [RECIPE] [--first-row 0] [--rows 4] [--FIELD VALUE ...]`.

The recipe's text is prepared if it is not yet. In colour: text that carries loss, text that does not, padding, and where documents meet.
"""

import sys
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.text import Text

from data.pipeline import Rows
from gptjax.batch import Batch
from gptjax.tokenizer import Tokenizer

COLOURS = ("cyan", "yellow", "green", "magenta", "blue")  # one a segment, in turn


def show(prepared: Path, T: int, seed: int, first_row: int, rows: int, console: Console) -> None:
    """Prints rows first_row, first_row + 1, ... of the mixture."""
    tokenizer = Tokenizer.load(prepared / "tokenizer.json")
    source = Rows(prepared, T, seed)
    row_R = np.arange(first_row, first_row + rows)
    batch = source.batch(row_R)
    console.print(legend())
    for place, row in enumerate(row_R):
        segments = int(batch.segment_BT[place].max())
        console.rule(f"row {row} · {source.source_of(row)} · {segments} document{'s' if segments > 1 else ''}", style="dim")
        console.print(row_text(batch, place, tokenizer))
        console.print(target_text(batch, place, tokenizer))


def legend() -> Text:
    return Text.assemble(
        ("a colour is a document", COLOURS[0]), "  ", ("underlined: the next token is predicted here", f"{COLOURS[0]} underline"), "  ",
        ("▌ a document begins", "bold"), "  ", ("· padding", "dim"), "\n",
    )  # fmt: skip


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
    for t, id in enumerate(batch.targets_BT[place]):
        segment = int(batch.segment_BT[place][t])
        loss = batch.weights_BT[place][t] > 0
        text.append(visible(tokenizer.token(int(id))) if loss else "·", COLOURS[segment % len(COLOURS)] if loss else "dim")
    return text


def visible(token: str) -> str:
    """A token with its line breaks drawn."""
    return token.replace("\n", "⏎\n").replace("\t", "⇥")


def main(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(__doc__)
        return 0 if arguments else 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
