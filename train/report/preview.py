"""What a model is about to read and to learn, shown before it trains: token by token, in colour."""

from collections.abc import Iterator, Sequence
from itertools import groupby

from rich.console import Console
from rich.text import Text

from gptjax.text.tokenizer import Tokenizer

EXAMPLES = 3  # that are shown
BEFORE, LONGEST = 120, 360  # tokens of one: before the first that is learnt, and in all
READ, LEARNED, END = "dim", "green", "bold reverse green"


def show_examples(
    console: Console, tokenizer: Tokenizer, examples: Sequence[tuple[Sequence[int], Sequence[bool]]]
) -> None:
    """Prints the first three `examples`: token ids, and of each whether it is learnt.

    Where there are no colours, and with them too, what is learnt stands in brackets.
    """
    key = Text.assemble(("read", READ), "  ", ("[learnt]", LEARNED), "  ", ("where a turn ends", END))
    console.print(key, highlight=False)
    for number, (ids, learned) in enumerate(examples[:EXAMPLES], start=1):
        said = f"── example {number} of {len(examples)}: {len(ids)} tokens, {sum(learned)} learnt ──"
        console.print(Text(said, style=READ))
        console.print(_text(tokenizer, ids, learned))


def show_labelled(console: Console, tokenizer: Tokenizer, examples: Sequence[tuple[Sequence[int], str]]) -> None:
    """Prints the first three `examples`: token ids that a head reads, and what it is to tell of them."""
    console.print(Text.assemble(("read", READ), "  ", ("[told]", LEARNED)), highlight=False)
    for number, (ids, told) in enumerate(examples[:EXAMPLES], start=1):
        console.print(Text(f"── example {number} of {len(examples)}: {len(ids)} tokens ──", style=READ))
        console.print(_text(tokenizer, ids, [False] * len(ids)).append(f"  [{told}]", LEARNED))


def _text(tokenizer: Tokenizer, ids: Sequence[int], learned: Sequence[bool]) -> Text:
    """The ids as text, cut to what is round the first that is learnt."""
    first = next((place for place, learnt in enumerate(learned) if learnt), 0)
    begin = max(0, min(first - BEFORE, len(ids) - LONGEST))
    end = min(len(ids), begin + LONGEST)
    text = Text()
    if begin:
        text.append(f"… {begin} tokens …", READ)
    places = range(begin, end)
    for learnt, run in groupby(places, key=lambda place: learned[place]):
        text.append("[" if learnt else "", LEARNED)
        for shown, is_name in words(tokenizer, [ids[place] for place in run]):
            text.append(shown, (END if is_name else LEARNED) if learnt else READ)
        text.append("]" if learnt else "", LEARNED)
    if end < len(ids):
        text.append(f"… {len(ids) - end} tokens …", READ)
    return text


def words(tokenizer: Tokenizer, ids: Sequence[int]) -> Iterator[tuple[str, bool]]:
    """Runs of text, and names of special tokens, which are True. Whole characters, whichever tokens these are in."""
    for special, run in groupby(ids, key=tokenizer.special_ids.__contains__):
        if special:
            yield from ((tokenizer.token(id), True) for id in run)
        else:
            yield "".join(map(_visible, tokenizer.continuation(run))), False


def _visible(character: str) -> str:
    """Line ends drawn too; what a terminal might obey, as Python writes it."""
    if character == "\n":
        return "⏎\n"
    return character if character.isprintable() else repr(character)[1:-1]
