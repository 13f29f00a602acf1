"""Bytes of text that a token stands for, by source and language: how well each tokenizer fits the text, and loses none.

    python -m data.tokenizer_table                                  # of the newest folder in ./prepared
    python -m data.tokenizer_table prepared/0123456789abcdef tokenizer.json spiece.model

Text: the held-out documents of a prepared folder. `bpe` and `characters` learn from its training documents, each source
by its share; the others are ready made. Files named on the command line come last.
"""

import dataclasses
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich import box
from rich.markup import escape
from rich.table import Table

from data.description import read_prepared
from data.preparation.prepared_folder import stored_text
from data.spec import READY_MADE
from gptjax.command.console import make_console, print_any_text
from gptjax.command.options import print_mistake, read
from gptjax.text.tokenizer import Tokenizer, ready_made, train_bpe, train_characters

LEARN_FROM = 10_000_000  # bytes of training text
BPE_SIZES = (4096, 16384)
CHARACTERS = 1 << 16  # as many as there are


def training_text(folder: Path, sources: Mapping[str, Any], total: int) -> Iterator[str]:
    """About `total` bytes of documents, shared out as the spec does; a source that is short comes several times."""
    shares = sum(source["share"] for source in sources.values())
    for source in sources.values():
        budget = total * source["share"] / shares
        while budget > 0:
            for text in stored_text(folder, source["folder"], "train"):
                yield text
                budget -= len(text.encode())
                if budget <= 0:
                    break


def tokenizers_for(folder: Path, sources: Mapping[str, Any], files: Sequence[str]) -> dict[str, Tokenizer]:
    """Every tokenizer of the table by its heading."""
    texts = list(training_text(folder, sources, LEARN_FROM))
    learnt = {f"bpe {size}": train_bpe(texts, size) for size in BPE_SIZES}
    ready = {name: ready_made(name) for name in (*READY_MADE, *files)}
    return (
        learnt | {"characters": train_characters(texts, CHARACTERS)} | {Path(name).name: ready[name] for name in ready}
    )


def bytes_per_token(tokenizer: Tokenizer, texts: Sequence[str]) -> float:
    return sum(len(text.encode()) for text in texts) / sum(map(len, tokenizer.encode_batch(texts)))


def exact(tokenizer: Tokenizer, texts: Sequence[str]) -> float:
    """The share of texts that come back as they were."""
    back = map(tokenizer.decode, tokenizer.encode_batch(texts))
    return sum(text == again for text, again in zip(texts, back, strict=True)) / len(texts)


def table(held_out: Mapping[str, Sequence[str]], languages: Mapping[str, str], kinds: Mapping[str, Tokenizer]) -> Table:
    """A line a source, then one a language, then what is lost; a column a tokenizer."""
    lines = Table("text", box=box.MARKDOWN)
    for heading, tokenizer in kinds.items():
        lines.add_column(f"{escape(heading)} ({tokenizer.size:,})", justify="right")
    by_language: dict[str, list[str]] = {}
    for name, texts in held_out.items():
        by_language.setdefault(languages[name], []).extend(texts)
    rows = [(f"{name} ({languages[name]})", texts) for name, texts in held_out.items()]
    rows += [(f"all {language}", texts) for language, texts in by_language.items()]
    for name, texts in rows:
        lines.add_row(escape(name), *(f"{bytes_per_token(tokenizer, texts):.2f}" for tokenizer in kinds.values()))
    everything = [text for texts in held_out.values() for text in texts]
    shares = (exact(tokenizer, everything) for tokenizer in kinds.values())
    lines.add_row("documents given back exactly", *(f"{share:.0%}" for share in shares))
    return lines


@dataclasses.dataclass(frozen=True, kw_only=True)
class Given:
    """What the table is of."""

    given: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="[FOLDER] [FILE...]")] = ()
    """A prepared folder, else the newest in ./prepared; then tokenizers: tokenizer.json or SentencePiece files."""


def main(words: Sequence[str]) -> int:
    print_any_text()
    try:
        given = read(Given, words, "python -m data.tokenizer_table", about=__doc__).given
        folder, files = (Path(given[0]), given[1:]) if given and Path(given[0]).is_dir() else (None, given)
        if folder is None:
            made = sorted(Path("prepared").glob("*/prepared.json"), key=lambda path: path.stat().st_mtime)
            if not made:
                raise ValueError("prepared: no prepared folder here; run python -m data.prepare, or name one")
            folder = made[-1].parent
        sources = read_prepared(folder)["sources"]
        kinds = tokenizers_for(folder, sources, files)
    except (ValueError, OSError) as error:
        return print_mistake(error)
    held_out = {name: list(stored_text(folder, source["folder"], "validation")) for name, source in sources.items()}
    languages = {name: source["language"] or "?" for name, source in sources.items()}
    make_console().print(table(held_out, languages, kinds))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
