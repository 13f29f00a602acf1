"""The verb `gptjax predict`: texts in, what a head tells of them out. Does not import JAX before it runs."""

import csv
import dataclasses
import io
import itertools
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

import gptjax
from gptjax.batch import ClassHead
from gptjax.command.console import make_console
from gptjax.command.verb import Verb
from gptjax.evaluation.items import FileItem, left_out, name_of, read_items
from gptjax.files.atomic_file import write_whole
from gptjax.files.places import expanded
from gptjax.files.plain_json import dumps
from gptjax.inference.head_input import TextOrTwo, fitted, head_named
from gptjax.text.record_files import column

if TYPE_CHECKING:
    from gptjax.inference.predicting import Prediction

ENDINGS = (".csv", ".jsonl")  # of files that are written
ROWS, WIDTH, LIKELIEST = 20, 60, 3  # of the table: rows, characters of a text, probabilities


@dataclasses.dataclass(frozen=True, kw_only=True)
class Predict(Verb):
    """Judge texts by an output head that a model was taught: a class, labels, or a number for each.

    Files are .csv, .tsv, .jsonl, .json or .parquet, a text in a record, or .txt, a text in a file. With --to a .csv or
    .jsonl file is written: the records as they were, with what the head tells in further columns, called as the head:

      NAME               the most probable class; the labels of a half and more, as a|b or a list; or the number
      NAME:CLASS         the probability of each class or label
      NAME_cut           true where the text was longer than the head reads, and lost its end

    Without --to the first answers are printed as a table.

      gptjax predict runs/reviews new.csv
      gptjax predict runs/reviews new.csv --head verdict --text review --to judged.csv
      gptjax predict runs/essays essays.jsonl --head grade --text essay --to graded.jsonl
      gptjax predict runs/pairs pairs.csv --head same --text one --second other --to judged.csv

    A head is made by `./launch.sh finetune MODEL --data FILE --as classes` (or labels, or values); how right it is,
    `gptjax evaluate MODEL classes FILE --head NAME` says.
    """

    directory: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """Folder of a run, or a folder in Hugging Face's layout that was exported from one."""
    files: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="FILE...")]
    """Files, folders or patterns: .csv, .tsv, .jsonl, .json, .parquet, .txt, packed (.gz, .zst) or not."""
    head: str | None = None
    """The head that judges; None = the only one that the model has."""
    text: str = "text"
    """Column of the text; a.b leads into objects."""
    second: str | None = None
    """Column of the second text, for a head that reads two; None = second."""
    to: str | None = None
    """File to write, .csv or .jsonl; None = print a table."""
    replace: bool = False
    """Write over a file that is there already."""
    most: int | None = None
    """Only so many texts, from the first on; None = all."""
    batch_tokens: int | None = None
    """Tokens read at once on each device; fewer need less memory. None = 512 on a CPU, 16384 elsewhere."""
    step: int | None = None
    """Checkpoint of a run; None = the best so far of a run that is judged by a figure, else the newest good one."""
    weights: Literal["trained", "ema"] = "trained"
    """Those of the step itself, or their moving average, where the run kept one."""
    adapter: str | None = None
    """Folder of a LoRA adapter in PEFT's layout, with the heads that were trained beside it."""
    dtype: Literal["float32", "bfloat16", "int8"] = "float32"
    """Of the products, or int8 of the weights alone; scores are float32."""

    def __post_init__(self):
        if not self.files:
            raise ValueError("files: give at least one, such as new.csv")
        for name in ("most", "batch_tokens"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"{name}={value}: must be at least 1")
        if self.to is not None and Path(self.to).suffix.lower() not in ENDINGS:
            ending = Path(self.to).suffix or "nothing"
            raise ValueError(f"--to {self.to}: ends in {ending}; a file of answers ends in {' or '.join(ENDINGS)}")

    def run(self) -> None:
        target = None if self.to is None else place_for_file(self.to, self.replace)
        items = list(itertools.islice(read_items(self.files), self.most))
        if not items:
            raise ValueError(f"{self.files[0]}: there are no texts to judge")
        for remark in left_out(self.files):
            print(remark, file=sys.stderr)
        firsts = texts_of_column(items, self.text, "--text")  # before the slow import, so that a typo is told at once
        model = gptjax.load(self.directory, self.step, weights=self.weights, dtype=self.dtype, adapter=self.adapter)
        head = model.config.class_heads[head_named(model.config.class_heads, self.head)]
        if self.second is not None and not head.two:
            raise ValueError(f"--second {self.second}: head {head.name!r} reads one text; leave it out")
        texts: Sequence[TextOrTwo] = firsts
        if head.two:
            texts = list(zip(firsts, texts_of_column(items, self.second or "second", "--second"), strict=True))
        if target is not None:
            refuse_taken(items[0], head)

        from gptjax.command.progress import bar

        with bar(f"judging {len(texts):,} texts") as progress:
            found = model.predict(texts, head.name, batch_tokens=self.batch_tokens, progress=progress)
        if cut := sum(one.cut for one in found):
            longest = fitted(head, model.config.T).length
            said = f"{cut:,} of {len(found):,} texts are longer than {longest} tokens and lost their end"
            print(said, file=sys.stderr)
        if target is None:
            show(texts, found, head)
            return
        write(target, items, found, head)
        print(f"wrote {self.to}: {len(found):,} answers of head {head.name!r}")


def texts_of_column(items: Sequence[FileItem], path: str, said: str) -> list[str]:
    """The texts of a column. Raises ValueError as `text_of_column` does."""
    return [text_of_column(item, number, path, said) for number, item in enumerate(items)]


def text_of_column(item: FileItem, number: int, path: str, said: str) -> str:
    """The text of a record. Raises ValueError where it has none, naming the file, the line and the option."""
    where = name_of(item, number)
    try:
        text = column(item, path, where)
    except ValueError as error:
        raise ValueError(f"{error}; name the column with {said}, of {', '.join(map(str, item))}") from None
    if not isinstance(text, str) or not text.strip():
        what = "is empty" if text is None or isinstance(text, str) else f"is a {type(text).__name__}, no text"
        raise ValueError(f"{where}: {path} {what}; leave the record out")
    return text


def place_for_file(name: str, replace: bool) -> Path:
    """Where a file is to be written. Raises ValueError where there is one already, or no folder for it."""
    path = expanded(name)
    if path.exists() and not replace:
        raise ValueError(f"{path}: is there already; give another name, or --replace to write over it")
    if not path.parent.is_dir():
        raise ValueError(f"{path}: there is no folder {path.parent}; make it, or give another place")
    return path


def columns_of(one: "Prediction", head: ClassHead) -> dict[str, Any]:
    """What is told of a text, by the columns that it is written in."""
    answer = list(one.answer) if isinstance(one.answer, tuple) else one.answer
    probabilities = {f"{head.name}:{name}": value for name, value in one.probabilities.items()}
    return {head.name: answer, **probabilities, f"{head.name}_cut": one.cut}


def refuse_taken(item: Mapping[str, Any], head: ClassHead) -> None:
    """Raises ValueError for a record that has a column by the name of one that is to be written."""
    written = [head.name, f"{head.name}_cut", *(f"{head.name}:{name}" for name in head.classes)]
    if taken := [name for name in written if name in item]:
        raise ValueError(
            f"{name_of(item, 0)}: has a column {taken[0]!r} already, where the answers go; rename it, or drop it"
        )


def write(path: Path, items: Sequence[Mapping[str, Any]], found: Iterable["Prediction"], head: ClassHead) -> None:
    """The records with what was told of them; the file appears whole."""
    rows = [{**item, **columns_of(one, head)} for item, one in zip(items, found, strict=True)]
    if path.suffix.lower() == ".jsonl":
        write_whole(path, (dumps(row, ensure_ascii=False) + "\n" for row in rows))
        return
    names = list(dict.fromkeys(name for row in rows for name in row))
    write_whole(path, csv_lines(names, rows))


def csv_lines(names: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """Lines of .csv; a list of texts as a|b, other lists and objects as JSON."""
    box = io.StringIO()
    writer = csv.writer(box, lineterminator="\n")
    for row in itertools.chain([names], ([_cell(row.get(name)) for name in names] for row in rows)):
        writer.writerow(row)
        yield box.getvalue()
        box.seek(0)
        box.truncate()


def _cell(value: Any) -> Any:
    if isinstance(value, list) and all(isinstance(one, str) for one in value):
        return "|".join(value)
    if isinstance(value, bool):
        return str(value).lower()
    return dumps(value, ensure_ascii=False) if isinstance(value, list | dict) else value


def show(texts: Sequence[TextOrTwo], found: Sequence["Prediction"], head: ClassHead) -> None:
    """The first answers, as a table."""
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=escape(f"{head.name}: {len(found):,} texts"), title_justify="left")
    for heading in ("text", head.name, *([] if head.tells_number else ["probability"])):
        table.add_column(escape(heading), overflow="fold")
    for text, one in zip(texts[:ROWS], found, strict=False):
        said = one.answer if isinstance(one.answer, str) else _said(one.answer)
        likeliest = sorted(one.probabilities.items(), key=lambda pair: -pair[1])[:LIKELIEST]
        chances = ", ".join(f"{name} {value:.0%}" for name, value in likeliest)
        row = (_short(text), said or "none", *([] if head.tells_number else [chances]))
        table.add_row(*map(escape, row))
    console = make_console()
    console.print(table)
    if (more := len(found) - ROWS) > 0:
        console.print(f"and {more:,} more; --to FILE.csv writes all of them", highlight=False)


def _said(answer: tuple[str, ...] | float) -> str:
    return ", ".join(answer) if isinstance(answer, tuple) else f"{answer:.6g}"


def _short(text: TextOrTwo) -> str:
    line = " ".join((text if isinstance(text, str) else " / ".join(text)).split())
    return line if len(line) <= WIDTH else f"{line[: WIDTH - 1]}…"
